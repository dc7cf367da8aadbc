"""The report: every table, figure and chapter of a results folder on one page that needs no network."""

import base64
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from ..files import write_text
from ..profiles import Profile
from .git import commit
from .records import machine
from .runner import CHAPTERS, Outcome, read_status

CAPTIONS = {
    "start_here": "A talking head from the reference weights", "speakers": "The corpus: one row a person, other clothes and light in every video",
    "landmarks": "Frames, landmarks and landmark images", "losses": "What the losses see", "meta_learning": "Meta-learning from nothing for its budget, beside the reference",
    "meta_curves": "Losses and scores of meta-learning", "identity_gap": "The identity gap before and after fine-tuning", "tuning_curves": "Fine-tuning",
    "figure3": "As the paper's Figure 3: the small corpus", "figure4": "As the paper's Figure 4: the large corpus",
    "figure6": "As the paper's Figure 6: ablations", "figure6_others": "The other ablations", "figure10": "As the paper's Figure 10: two people at every T that was run, small corpus",
    "figure11": "As the paper's Figure 11: many people, small corpus", "figure12": "As the paper's Figure 12: two people at every T, large corpus",
    "figure13": "As the paper's Figure 13: many people, large corpus", "stability": "Short trainings with and without L_FM",
    "figure1": "As the paper's Figure 1: driven by the same person and by another one", "figure5": "As the paper's Figure 5: one-shot heads driven by other people",
    "figure7": "As the paper's Figure 7: more of them", "figure8": "As the paper's Figure 8: driven by another video of the same person, T = 8",
    "figure9": "As the paper's Figure 9: the same with T = 16", "gap": "The identity gap of two people at T = 1 and 8, with what differs from the truth",
    "by_hand": "One head moved by hand: turned, mouth and eyes opened, one landmark pulled", "adaptation": "A stranger's landmarks, raw and adapted, where the truth is known",
    "gaze": "Eyes of heads that look aside, told by 68 points and told where the pupils are", "triplets": "Which one is the fake?",
    "astronaut": "A head from one photograph, by weights that have seen drawn people only",
}

MADE_BY = {Path(p).stem: c.name for c in CHAPTERS for p in c.promises}  # which chapter promises a result, in their order

PAGE = jinja2.Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Talking heads: {{ profile.name }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } figure { margin: 1.5rem 0 } figure img { max-width: 100% } figcaption { color: #555 }
.scroll { overflow-x: auto } .scroll table { width: max-content } .scroll td { max-width: 9.5rem; vertical-align: top } .scroll td:last-child { max-width: 40rem }
table { border-collapse: collapse; font-size: 13px } td, th { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left }
.ok { color: #176b2c } .failed { color: #b00020 } pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; font-size: 12px }
.weights { background: #fff6dd; padding: .5rem .8rem; border-left: 4px solid #e0b000 }
</style></head><body>
<h1>Few-shot neural talking heads: profile {{ profile.name }}</h1>
<p>{{ profile.about }}.<br>{{ machine }}; code {{ commit or "not in git" }}.</p>
<p class="weights">{{ weights }}</p>
<h2>Chapters</h2>
<table><tr><th>chapter</th><th>status</th><th>seconds</th></tr>
{% for c, o in chapters %}<tr><td>{% if o and o.status in ("ok", "failed") %}<a href="notebooks/{{ c.name }}.html">{{ c.name }}</a>{% else %}{{ c.name }}{% endif %}: {{ c.about }}</td>
<td class="{{ o.status if o else '' }}">{{ o.status if o else "not run" }}</td><td>{{ "%.0f" % o.seconds if o else "" }}</td></tr>
{% if o and o.error %}<tr><td colspan="3"><pre>{{ o.error }}</pre></td></tr>{% endif %}{% endfor %}</table>
<h2>Tables</h2>
{% for name, text, table in tables %}<h3>{{ name }}</h3><p>{{ text }}</p><div class="scroll">{{ table }}</div>{% endfor %}
<h2>Figures</h2>
{% for name, caption, data in figures %}<figure id="{{ name }}"><img alt="{{ caption }}" src="data:image/png;base64,{{ data }}"><figcaption>{{ caption }}</figcaption></figure>{% endfor %}
</body></html>
""", autoescape=jinja2.select_autoescape(default=True))


def markdown_table(path: Path) -> tuple[str, str]:
    """Caption and HTML of a table that :mod:`tables` wrote as markdown; what a row shares with the one above is left blank."""
    text, _, body = path.read_text().partition("\n\n")
    lines = [[c.strip() for c in line.strip().strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    frame = pd.DataFrame(lines[2:], columns=lines[0])
    repeated = (frame == frame.shift()).cummin(axis=1)  # from the left, up to the first column that differs
    return text, frame.mask(repeated, "").to_html(index=False, border=0)


def in_order(folder: Path, ending: str) -> list[Path]:
    """Files of a folder, first those that chapters promise, in their order, then the others by name."""
    promised = [*MADE_BY]
    return sorted(folder.glob(f"*{ending}"), key=lambda path: (promised.index(path.stem) if path.stem in MADE_BY else len(promised), path.stem))


def earlier(chapter: str | None, outcomes: dict[str, Outcome]) -> str:
    """What stands before a result whose chapter did not come to a good end since: it is of an earlier run."""
    if chapter is None or (chapter in outcomes and outcomes[chapter].status == "ok"):
        return ""
    return f"Of an earlier run ({chapter}: {outcomes[chapter].status if chapter in outcomes else 'not run'}). "


def write_report(profile: Profile, results: Path, weights: str) -> Path:
    """``index.html`` of ``results`` = results/<profile>."""
    outcomes = read_status(results)
    tables = []
    for path in in_order(results / "tables", ".md"):
        text, table = markdown_table(path)
        tables.append((path.stem, earlier(MADE_BY.get(path.stem), outcomes) + text, Markup(table)))
    figures = [(path.stem, earlier(MADE_BY.get(path.stem), outcomes) + CAPTIONS.get(path.stem, path.stem), base64.b64encode(path.read_bytes()).decode())
               for path in in_order(results / "figures", ".png")]
    page = PAGE.render(profile=profile, machine=machine(), commit=commit(), weights=weights, tables=tables, figures=figures,
                       chapters=[(c, outcomes.get(c.name)) for c in CHAPTERS])
    write_text(results / "index.html", page)
    return results / "index.html"
