"""The report: verdicts, clips, figures, chapters and tables of a results folder on one page that needs no
network.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
import torch
from markupsafe import Markup

from talking_heads.config import Profile
from talking_heads.files import write_text
from talking_heads.provenance import commit, device_name
from talking_heads.workbook.stages import Chapter, Outcome, read_status

# the provenance of weights in a caption: on the page it stands once, at its end
PROVENANCE = re.compile(
    r"(?:(?:Committed reference weights|Weights trained from nothing in this run)\. )?"
    r"(?:[\w-]+ weights: profile [^;]*?, code \w+(?:, collapsed: [^;]*?)?[.;] ?)+"
    r"(?:Diffused Heads: profile [\w-]+, [\d,]+ steps\. ?)?"
)
TEMPLATE = Path(__file__).with_name("report.html")


@dataclass
class Report:
    """What a report shows beside the results: its title, the chapters, captions of figures and clips, what
    the weights are, and the names of the figures with which it begins.
    """

    title: str
    chapters: Sequence[Chapter]
    captions: Mapping[str, str]
    weights: str
    verdicts: Sequence[str] = ()

    def promised_by(self) -> dict[str, str]:
        """The chapter that promises each table, figure and clip, in the order of the chapters."""
        return {Path(p).stem: chapter.name for chapter in self.chapters for p in chapter.promises}

    def sorted_files(self, folder: Path, ending: str) -> list[Path]:
        """Files of a folder: first those that chapters promise, in their order, then the others by name."""
        promised = list(self.promised_by())
        files = {path.stem: path for path in sorted(folder.glob(f"*{ending}"))}
        first = [files[name] for name in promised if name in files]
        return first + [path for name, path in files.items() if name not in promised]

    def write(self, profile: Profile, results: Path, device: str | torch.device) -> Path:
        """``index.html`` of ``results`` = results/<profile>."""
        outcomes, promised_by = read_status(results), self.promised_by()
        tables, figures, clips = [], [], []

        def caption(path: Path, text: str = "") -> str:
            text = text or self.captions.get(path.stem, path.stem.replace("_", " "))
            return earlier_run(promised_by.get(path.stem), outcomes) + text

        for path in self.sorted_files(results / "tables", ".md"):
            text, table = markdown_table(path)
            tables.append((path.stem, caption(path, text), Markup(table)))
        for path in self.sorted_files(results / "figures", ".png"):
            figures.append((path.stem, caption(path), base64.b64encode(path.read_bytes()).decode()))
        for path in self.sorted_files(results / "clips", ".mp4"):
            clips.append((path.relative_to(results).as_posix(), caption(path)))
        environment = jinja2.Environment(autoescape=True)
        page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            title=self.title,
            profile=profile,
            device=device_name(device),
            commit=commit(),
            weights=self.weights,
            tables=tables,
            verdicts=[figure for figure in figures if figure[0] in self.verdicts],
            figures=[figure for figure in figures if figure[0] not in self.verdicts],
            clips=clips,
            chapters=[(chapter, outcomes.get(chapter.name)) for chapter in self.chapters],
        )
        write_text(results / "index.html", page)
        return results / "index.html"


def markdown_table(path: Path) -> tuple[str, str]:
    """Caption, without provenance, and HTML of a table in Markdown.

    What a row shares with the row above is left blank.
    """
    text, _, body = path.read_text(encoding="utf-8").partition("\n\n")
    lines = [line.strip().strip("|").split("|") for line in body.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    table = pd.DataFrame(cells[2:], columns=cells[0])
    repeated = (table == table.shift()).cummin(axis=1)  # from the left, up to the first column that differs
    return PROVENANCE.sub("", text).strip(), table.mask(repeated, "").to_html(index=False, border=0)


def earlier_run(chapter: str | None, outcomes: Mapping[str, Outcome]) -> str:
    """A note before a result whose chapter has not ended well since: it is of an earlier run."""
    if chapter is None or (chapter in outcomes and outcomes[chapter].status == "ok"):
        return ""
    status = outcomes[chapter].status if chapter in outcomes else "not run"
    return f"Of an earlier run ({chapter}: {status}). "
