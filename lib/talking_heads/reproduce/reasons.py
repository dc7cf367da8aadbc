"""Why a claim of the paper does not show here: for every *no* and *undecided* a paragraph, backed by something measured.

Every paragraph begins with the parts that failed or were left open, how many people would close these, and the weakest of
all parts. Causes follow, each only where what is measured shows it.
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


def only_if(so: bool) -> None:
    """A cause is named only where its measurement shows it: raises Missing otherwise."""
    if not so:
        raise Missing("a cause that does not show here")


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
    only_if(len(reached) > 0 and this.iloc[0] - full.iloc[0] > 2 * (this.iloc[-5:].mean() - full.iloc[-5:].mean()))
    return (f"With {row}, L′_CNT begins at {this.iloc[0]:.2f}, with the full model at {full.iloc[0]:.2f}. After {reached[0] - 1} of {this.index[-1]} steps it is where that one began, and it ends at {this.iloc[-5:].mean():.2f} "
            f"against {full.iloc[-5:].mean():.2f}: fine-tuning moves all of G, not ψ′ alone, and mends most of a wrong start. Most, not all: against the full model the difference "
            f"is {b.gain('CSIM-judge', row, m.OURS)} in CSIM-judge and {b.gain('SSIM', row, m.OURS)} in SSIM.")


def feed_forward_is_weak(b: Backing) -> str:
    only_if(b.mean(m.OURS_BEFORE, "CSIM-judge") < b.mean(m.NEAREST, "CSIM-judge"))
    return (f"And the bar, the small corpus's images before fine-tuning, is low: CSIM-judge {b.mean(m.OURS_BEFORE, 'CSIM-judge'):.2f}, where a frame of the very person in another "
            f"pose has {b.mean(m.NEAREST, 'CSIM-judge'):.2f}. A network that knows few people has little to lose by a random start.")


def normal_is_no_face(b: Backing) -> str:
    only_if(b.mean(m.NORMAL_PSI, "landmark error") > 1.5 * b.mean(m.OURS, "landmark error") and b.mean(m.NORMAL_PSI, "CSIM-judge") > b.mean(m.OURS_BEFORE, "CSIM-judge"))
    pair = lambda metric, digits: f"{b.mean(m.NORMAL_PSI, metric):.{digits}f} against {b.mean(m.OURS, metric):.{digits}f}"
    return (f"{m.NORMAL_PSI}, which is not even of the right size, fares otherwise: landmark error {pair('landmark error', 3)}, SSIM {pair('SSIM', 2)}. Its CSIM-judge, "
            f"{pair('CSIM-judge', 2)}, lies above the bar all the same: CSIM-judge alone is no measure of what is plausible. The statistic was fixed before and stays.")


def feed_forward_is_full(b: Backing) -> str:
    few, many = b.evidence.shots[0], b.evidence.shots[-1]
    likeness = {name: [b.mean(name, "CSIM-judge", t) for t in (few, many)] for name in (m.FEED_FORWARD, m.AFTER)}
    only_if(np.diff(likeness[m.FEED_FORWARD]) < np.diff(likeness[m.AFTER]) and likeness[m.AFTER][0] > likeness[m.FEED_FORWARD][0])
    grows = lambda name: "from {:.3f} to {:.3f}".format(*likeness[name])
    return (f"From T = {few} to {many} FF's CSIM-judge goes {grows(m.FEED_FORWARD)}, FT's {grows(m.AFTER)}: what one pass of E keeps of a person is soon full. And at T = {few} already "
            f"fine-tuning lifts it from {b.mean(m.BEFORE, 'CSIM-judge', few):.3f}: forty steps on one frame are worth more here than FF's longer training.")


def adversary_is_weak(b: Backing) -> str:
    apart = {name: b.losses(name, "r_real") - b.losses(name, "r_fake") for name in (m.OURS, m.NO_MATCH_ONE_SHOT)}
    only_if(all(values.iloc[-5:].mean() < 1 for values in apart.values()))
    said = ", ".join(f"{values.iloc[0]:+.2f} at the first step and {values.iloc[-5:].mean():+.2f} over the last five in the row {name}" for name, values in apart.items())
    return (f"D′ has little to say in these fine-tunings. It scores real frames above generated ones by {said}, where L′_DSC is content with 2. "
            f"Taking L′_ADV away altogether changes CSIM-judge by {b.gain('CSIM-judge', m.NO_ADVERSARIAL, m.OURS)}: where D′ itself is worth that little, little can hang on the vector that it starts from.")


def pose_is_at_the_judges_limit(b: Backing) -> str:
    only_if(b.mean(m.OURS, "landmark error") < 1.5 * b.landmark_error)
    pair = lambda metric, digits: f"{b.mean(m.OURS, metric):.{digits}f} with the term and {b.mean(m.NO_ADVERSARIAL, metric):.{digits}f} without"
    return (f"Sharpness, over that of the truth, is {pair('sharpness', 3)}; the landmark error is {pair('landmark error', 4)}, and the judge itself errs by {b.landmark_error:.4f} on true frames: "
            "little is left to gain in pose.")


def warping_is_not_the_limit(b: Backing) -> str:
    """SSIM of X2Face less ours on frames near to and far from the training frames; its sharpness and pose; FD-judge with T."""
    e = b.evidence
    part = e.frames[e.frames["T"] == e.t].set_index(["person", "video", "frame", "seed"])
    ours, theirs = (part[part["method"] == name] for name in (m.OURS, m.X2FACE))
    if not (len(ours) and len(theirs)):
        raise Missing(m.X2FACE)
    far = ours["reach"] > ours["reach"].groupby("person").transform("median")
    lead = theirs["SSIM"] - ours["SSIM"]
    only_if(lead[~far].mean() < 0)
    pair = lambda metric, digits: f"{b.mean(m.X2FACE, metric):.{digits}f} against our {b.mean(m.OURS, metric):.{digits}f}"
    return (f"X2Face does not lag for want of pixels to move: its SSIM less ours is {lead[~far].mean():+.3f} on the half of the frames nearest to the T frames and {lead[far].mean():+.3f} on the other half. "
            f"It is soft (sharpness {pair('sharpness', 2)}) and less exact in pose (landmark error {pair('landmark error', 3)}).")


def translation_starts_from_nobody(b: Backing) -> str:
    few, many = b.evidence.shots[0], b.evidence.shots[-1]
    only_if(b.mean(m.PIX2PIXHD, "CSIM-judge", few) < b.mean(m.OURS, "CSIM-judge", few))
    row = lambda t: f"{b.mean(m.PIX2PIXHD, 'CSIM-judge', t):.3f} (ours {b.mean(m.OURS, 'CSIM-judge', t):.3f})"
    return (f"Pix2pixHD has no embedder: before its fine-tuning everybody looks alike, and all of a person comes from forty epochs, which are more steps at a larger T. Its CSIM-judge is {row(few)} at "
            f"T = {few} and {row(many)} at T = {many}.")


def observer_is_no_judge(b: Backing) -> str:
    e = b.evidence
    if e.observed is None:
        raise Missing("the observer")
    rates = e.observed[e.observed["T"] == e.t].groupby(["method", "person"])["USER-proxy"].mean().unstack(0)
    if not {m.NEAREST, m.OURS} <= set(rates):
        raise Missing("the observer on ours")
    mean = rates.mean()
    only_if(rates[m.OURS].std() > mean.std())
    return (f"The observer is a weak one. Chance is 0.33; it points at a real picture, the nearest training frame, in {mean[m.NEAREST]:.2f} of the triplets, at ours in {mean[m.OURS]:.2f}. Between methods its rates "
            f"deviate by {mean.std():.2f}, between people, for ours, by {rates[m.OURS].std():.2f}: what it takes for a fake depends more on who is shown than on what made the picture.")


def corpora_differ_little(b: Backing) -> str:
    only_if(b.mean(m.BEFORE, "CSIM-judge") - b.mean(m.OURS_BEFORE, "CSIM-judge") > b.mean(m.AFTER, "CSIM-judge") - b.mean(m.OURS, "CSIM-judge"))
    return (f"Before any fine-tuning the large corpus's model is ahead by {b.gain('CSIM-judge', m.BEFORE, m.OURS_BEFORE)} in CSIM-judge, after it by {b.gain('CSIM-judge', m.AFTER, m.OURS)}: "
            "most of what either model ends with comes from the T frames.")


def frames_take_about_as_long(b: Backing) -> str:
    if b.evidence.timings is None:
        raise Missing("timings")
    rows = b.evidence.timings[b.evidence.timings["phase"] == "inference"].set_index(["method", "size"])
    close = np.log(rows.loc[m.OURS, "seconds"] / rows.loc[m.PIX2PIXHD, "seconds"]).abs() < 0.1
    only_if(close.any())
    time = lambda name, size: "{:.4f} s [{:.4f}, {:.4f}]".format(*rows.loc[(name, size), ["seconds", "low", "high"]])
    said = "; ".join(f"at {size}² a frame of {m.OURS} takes {time(m.OURS, size)}, one of {m.PIX2PIXHD} {time(m.PIX2PIXHD, size)}" for size in close.index[close])
    return f"Medians and quartiles: {said}. Within a tenth of each other, methods may change places with the machine and the day."


def nothing_to_stabilise(b: Backing) -> str:
    table = b.evidence.stability
    if table is None or not len(table):
        raise Missing("trainings without L_FM")
    only_if(table["apart"].mean() < 1)
    said = "; ".join(f"{how} L_FM {int(part['diverged'].sum())} of {len(part)} trainings diverged, L_CNT went from {part['start'].mean():.2f} to {part['end'].mean():.2f}, and over the last steps "
                     f"D scored real frames above generated ones by {part['apart'].mean():+.2f}" for how, part in table.groupby("feature_matching"))
    return f"{said[0].upper()}{said[1:]}. A D that hardly tells them apart pushes G nowhere, and what is not pushed needs no support."


def likeness_needs_edges(b: Backing) -> str:
    names = (m.X2FACE, m.PIX2PIXHD, m.OURS_BEFORE, m.OURS, m.FEED_FORWARD, m.AFTER)
    rows = "; ".join(f"{name} {b.mean(name, 'sharpness'):.2f}, {b.mean(name, 'CSIM-judge'):.3f}" for name in names)
    return f"Sharpness and CSIM-judge by method: {rows}. The next section blurs frames and looks at the judge alone."


CAUSES: dict[int, Sequence[Callable[[Backing], str]]] = {
    3: (feed_forward_is_full,), 4: (lambda b: start_repaired(b, m.RANDOM_E), feed_forward_is_weak), 5: (lambda b: start_repaired(b, m.RANDOM_PSI), normal_is_no_face),
    6: (adversary_is_weak,), 8: (pose_is_at_the_judges_limit, adversary_is_weak), 9: (warping_is_not_the_limit, translation_starts_from_nobody), 10: (observer_is_no_judge,),
    11: (frames_take_about_as_long,), 12: (corpora_differ_little,), 13: (nothing_to_stabilise,), 14: (likeness_needs_edges,)}


def parts_of(rows: pd.DataFrame, people: int) -> str:
    """How many parts of a claim hold, show the opposite, or are open; and how many people would close an open one if its estimate stood."""
    count = rows["part holds"].value_counts()
    said = ", ".join(f"{count[verdict]} {words}" for verdict, words in (("yes", "as claimed"), ("no", "the opposite"), ("undecided", "open")) if verdict in count)
    left = rows[(rows["part holds"] == "undecided") & rows["ci_low"].notna() & (rows["estimate"] != 0)]
    if rows["id"].iloc[0] not in OF_PEOPLE or not len(left):
        return f"Parts: {said}."
    needed = sorted((people * ((left["ci_high"] - left["ci_low"]) / 2 / left["estimate"].abs()) ** 2).clip(people + 1, MANY).round().astype(int).unique())
    some = " to ".join(f"{n} or more" if n == MANY else str(n) for n in needed[:: max(1, len(needed) - 1)])
    return f"Parts: {said}; were the estimates right, some {some} people would close {'it' if len(left) == 1 else 'them'}, where {people} were asked."


def explain(table: pd.DataFrame, backing: Backing) -> pd.DataFrame:
    """A row for every *no* and *undecided* of ``claims.csv``: id, claim, holds and why. Causes that were not measured are left out."""
    people, rows = backing.evidence.frames["person"].nunique(), []
    for number, parts in table[table["holds"].isin(["no", "undecided"])].groupby("id"):
        weakest = parts.loc[parts["ci_low"].fillna(parts["estimate"]).idxmin()]
        said = [parts_of(parts, people), f"The weakest: {weakest['part']}, {weakest['estimate']:+.3f}."]
        for cause in CAUSES.get(number, ()):
            with suppress(Missing):
                said.append(cause(backing))
        rows.append([number, parts["claim"].iloc[0], parts["holds"].iloc[0], " ".join(said)])
    return pd.DataFrame(rows, columns=["id", "claim", "holds", "why"])
