"""Why a claim of the paper does not show here: for every *no* and *undecided* a paragraph, backed by something measured.

Every paragraph begins with the parts that failed or were left open, and how many people would decide these. Where a cause
was looked for, what was measured about it follows.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation import judges, metrics, protocol
from ..evaluation import methods as m
from .claims import CLAIMS, Evidence, Missing, gain

MANY = 1_000  # people; beyond it nobody will ask them
OF_PEOPLE = [c.id for c in CLAIMS if c.id not in (11, 13)]  # whose unit is a person; of 11 it is a measured time, of 13 a seed


@dataclass
class Backing:
    """What paragraphs are backed by: the evidence, the fine-tunings' losses (a row for every step, person and seed) and the judge's own error."""

    evidence: Evidence
    tunings: Mapping[str, pd.DataFrame]
    landmark_error: float  # of the judge on true frames, in distances between the eyes

    def mean(self, name: str, metric: str, t: int | None = None) -> float:
        """A metric's mean over people. Raises Missing where the method was not run."""
        values = protocol.per_person(self.evidence.frames, name, t or self.evidence.t, metric)
        if not len(values):
            raise Missing(name)
        return float(values.mean())

    def gain(self, metric: str, a: str, b: str, t: int | None = None) -> str:
        """A paired difference with its interval, as text."""
        _, estimate, low, high = gain(self.evidence, metric, a, t or self.evidence.t, b, t or self.evidence.t)
        return f"{estimate:+.3f} [{low:+.3f}, {high:+.3f}]"

    def losses(self, name: str, loss: str) -> pd.Series:
        """A loss of a method's fine-tunings, mean over people and seeds: by step. Raises Missing where there are none."""
        if name not in self.tunings or not self.tunings[name][loss].notna().any():
            raise Missing(f"losses of {name}")
        return self.tunings[name].groupby("step")[loss].mean()


def collect(evidence: Evidence, cells: Sequence[Path]) -> Backing:
    """Read off the cells of the middle T what the paragraphs need."""
    cells = [c for c in cells if protocol.about(c)[2] == evidence.t]
    logs: dict[str, list[pd.DataFrame]] = {}
    errors = []
    for path in cells:
        for name, rows in protocol.tuning_logs(path, (m.AFTER, m.OURS, *m.ABLATIONS)).items():
            logs.setdefault(name, []).append(pd.DataFrame(rows))
        if protocol.about(path)[3] == 0:
            with np.load(path) as cell:
                errors.append(metrics.landmark_error(judges.find_landmarks(cell["truth"]), cell["points"]).mean())
    return Backing(evidence, {name: pd.concat(tables) for name, tables in logs.items()}, float(np.mean(errors)))


def start_repaired(b: Backing, row: str) -> str:
    """How far fine-tuning makes up for a random start."""
    full, this = b.losses(m.OURS, "cnt"), b.losses(row, "cnt")
    reached = this.index[this <= full.iloc[0]]
    when = f"after {reached[0] - 1} of {this.index[-1]} steps it is where that one began" if len(reached) else "it never gets to where that one began"
    return (f"With *{row}* L′_CNT begins at {this.iloc[0]:.2f}, where the full model begins at {full.iloc[0]:.2f}; {when}, and it ends at {this.iloc[-5:].mean():.2f} "
            f"against {full.iloc[-5:].mean():.2f}: fine-tuning moves all of G, not ψ′ alone, and repairs most of a wrong start. "
            f"Against the full model the row loses {b.gain('CSIM-judge', m.OURS, row)} in CSIM-judge and {b.gain('SSIM', m.OURS, row)} in SSIM.")


def feed_forward_is_weak(b: Backing) -> str:
    return (f"The bar, the small corpus's images before fine-tuning, is low: CSIM-judge {b.mean(m.OURS_BEFORE, 'CSIM-judge'):.2f}, where one of the person's own frames in a wrong "
            f"pose has {b.mean(m.NEAREST, 'CSIM-judge'):.2f}. A network that knows fewer people has less to lose by a random start.")


def normal_is_no_face(b: Backing) -> str:
    return (f"*{m.NORMAL_PSI}* does give no plausible image: its landmark error is {b.mean(m.NORMAL_PSI, 'landmark error'):.3f} against {b.mean(m.OURS, 'landmark error'):.3f}, its SSIM "
            f"{b.mean(m.NORMAL_PSI, 'SSIM'):.2f} against {b.mean(m.OURS, 'SSIM'):.2f}, and Figure 6 shows no face. That its CSIM-judge is {b.mean(m.NORMAL_PSI, 'CSIM-judge'):.2f} all the same says "
            "that our judge can be taken in by colours: the statistic was fixed before, and stays.")


def feed_forward_is_full(b: Backing) -> str:
    few, many = b.evidence.shots[0], b.evidence.shots[-1]
    grows = lambda name: f"from {b.mean(name, 'CSIM-judge', few):.3f} to {b.mean(name, 'CSIM-judge', many):.3f}"
    return (f"From T = {few} to {many} FF's CSIM-judge goes {grows(m.FEED_FORWARD)}, FT's {grows(m.AFTER)}: what one pass of E keeps of a person is soon full. And at T = {few} already, "
            f"fine-tuning lifts it from {b.mean(m.BEFORE, 'CSIM-judge', few):.3f}: forty steps on one frame are worth more here than the longer training of FF.")


def adversary_is_weak(b: Backing) -> str:
    apart = {name: (b.losses(name, "r_real") - b.losses(name, "r_fake")) for name in (m.OURS, m.NO_MATCH_ONE_SHOT)}
    said = ", ".join(f"{values.iloc[0]:+.2f} at the first and {values.iloc[-5:].mean():+.2f} over the last steps with *{name}*" for name, values in apart.items())
    return (f"D′ has little to say in these fine-tunings: it holds real and generated frames apart by {said} (a hinge is satisfied at 2). "
            f"Taking L′_ADV away altogether changes CSIM-judge by {b.gain('CSIM-judge', m.NO_ADVERSARIAL, m.OURS)}; the vector that D′ starts from cannot be worth more than D′ itself.")


def pose_is_at_the_judges_limit(b: Backing) -> str:
    return (f"Crisper: sharpness {b.mean(m.OURS, 'sharpness'):.3f} of the truth's with the term, {b.mean(m.NO_ADVERSARIAL, 'sharpness'):.3f} without. Pose: the landmark error is "
            f"{b.mean(m.OURS, 'landmark error'):.4f} with and {b.mean(m.NO_ADVERSARIAL, 'landmark error'):.4f} without it, and the judge errs by {b.landmark_error:.4f} on true frames: little is left to gain.")


def warping_reaches_so_far(b: Backing) -> str:
    """SSIM of X2Face against ours on frames near to and far from the training frames; what the baselines gain with T."""
    e, frame = b.evidence, ["person", "video", "frame", "seed"]
    part = e.frames[e.frames["T"] == e.t].set_index(frame)
    of = lambda name: part.loc[part["method"] == name, "SSIM"]
    if not (len(of(m.X2FACE)) and len(of(m.OURS))):
        raise Missing(m.X2FACE)
    reach = part.loc[part["method"] == m.OURS, "reach"]
    far = reach > reach.groupby("person").transform("median")
    lead = of(m.X2FACE) - of(m.OURS)
    return (f"X2Face moves pixels of the T frames: its SSIM less ours is {lead[~far].mean():+.3f} on the half of the frames nearest to these and {lead[far].mean():+.3f} on the other; its landmark error is "
            f"{b.mean(m.X2FACE, 'landmark error'):.3f} against {b.mean(m.OURS, 'landmark error'):.3f}, so the driving vector does not tell the whole pose. Several sources, merged by "
            "a learned confidence, fill each other's gaps here, so more of them help.")


def translation_starts_from_nobody(b: Backing) -> str:
    few, many = b.evidence.shots[0], b.evidence.shots[-1]
    row = lambda t: f"{b.mean(m.PIX2PIXHD, 'CSIM-judge', t):.3f} (ours {b.mean(m.OURS, 'CSIM-judge', t):.3f})"
    return (f"Pix2pixHD has no embedder: before its fine-tuning everybody has one mean face, and all of a person must come from forty epochs. Its CSIM-judge is {row(few)} at T = {few} and {row(many)} at "
            f"T = {many}, where forty epochs are more steps.")


def observer_is_no_judge(b: Backing) -> str:
    e = b.evidence
    if e.observed is None:
        raise Missing("the observer")
    real = e.observed[(e.observed["method"] == m.NEAREST) & (e.observed["T"] == e.t)].groupby("person")["USER-proxy"].mean()
    ours = e.observed[(e.observed["method"] == m.OURS) & (e.observed["T"] == e.t)].groupby("person")["USER-proxy"].mean()
    return (f"The observer is a weak one: it points at a real picture, the nearest training frame, in {real.mean():.2f} of the triplets, at ours in {ours.mean():.2f}, where chance is 0.33; and from person to person "
            f"the latter deviates by {ours.std():.2f}. What it calls fake depends more on who is shown than on which method made it.")


def corpora_differ_little(b: Backing) -> str:
    return (f"Before any fine-tuning the large corpus's model is ahead by {b.gain('CSIM-judge', m.BEFORE, m.OURS_BEFORE)} in CSIM-judge, after it by {b.gain('CSIM-judge', m.AFTER, m.OURS)}: "
            "what the T frames say of a person counts for most of what either model ends with.")


def nothing_to_stabilise(b: Backing) -> str:
    table = b.evidence.stability
    if table is None or not len(table):
        raise Missing("trainings without L_FM")
    said = "; ".join(f"{how} L_FM {int(part['diverged'].sum())} of {len(part)} diverged, D held real and generated frames apart by {part['apart'].mean():+.2f} over the last steps, and L_CNT went from "
                     f"{part['start'].mean():.2f} to {part['end'].mean():.2f}" for how, part in table.groupby("feature_matching"))
    return f"In these short trainings, {said}. A D that cannot tell them apart pushes G nowhere, and what is not pushed needs no support."


def likeness_needs_edges(b: Backing) -> str:
    rows = ", ".join(f"{name} {b.mean(name, 'sharpness'):.2f} and {b.mean(name, 'CSIM-judge'):.3f}" for name in (m.X2FACE, m.PIX2PIXHD, m.OURS, m.FEED_FORWARD, m.AFTER))
    return f"Sharpness and CSIM-judge, method by method: {rows}."


CAUSES: dict[int, Sequence[Callable[[Backing], str]]] = {
    3: (feed_forward_is_full,), 4: (lambda b: start_repaired(b, m.RANDOM_E), feed_forward_is_weak), 5: (lambda b: start_repaired(b, m.RANDOM_PSI), normal_is_no_face),
    6: (adversary_is_weak,), 8: (pose_is_at_the_judges_limit, adversary_is_weak), 9: (warping_reaches_so_far, translation_starts_from_nobody), 10: (observer_is_no_judge,),
    12: (corpora_differ_little,), 13: (nothing_to_stabilise,), 14: (likeness_needs_edges,)}


def parts_of(rows: pd.DataFrame, people: int) -> str:
    """How many parts of a claim hold, show the opposite, or are open; and how many people would decide an open one if its estimate stood."""
    count = rows["part holds"].value_counts()
    said = f"{count.get('yes', 0)} of {len(rows)} parts hold, {count.get('no', 0)} show the opposite, {count.get('undecided', 0)} {'is' if count.get('undecided', 0) == 1 else 'are'} open"
    left = rows[(rows["part holds"] == "undecided") & rows["ci_low"].notna() & (rows["estimate"] != 0)]
    if rows["id"].iloc[0] in OF_PEOPLE and len(left):
        needed = sorted(people * ((left["ci_high"] - left["ci_low"]) / 2 / left["estimate"].abs()) ** 2)
        text = [f"{n:.0f}" if n < MANY else f"more than {MANY}" for n in needed]
        said += f" (with such estimates it would take some {' and '.join(dict.fromkeys(text))} people to close {'it' if len(text) == 1 else 'them'}; here are {people})"
    return said + "."


def paragraphs(table: pd.DataFrame, backing: Backing) -> dict[int, str]:
    """Claim -> why it is a *no* or *undecided* in ``claims.csv``, as Markdown. A cause whose measurement was not run is left out."""
    people, out = backing.evidence.frames["person"].nunique(), {}
    for number, rows in table[table["holds"].isin(["no", "undecided"])].groupby("id"):
        said = [f"**{number}. {rows['claim'].iloc[0]}: {rows['holds'].iloc[0]}.**", parts_of(rows, people)]
        for cause in CAUSES.get(number, ()):
            with suppress(Missing):
                said.append(cause(backing))
        out[number] = " ".join(said)
    return out
