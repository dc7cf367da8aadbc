"""Why a claim of the paper does not show here: for every *no* and *undecided* a paragraph, backed by something measured.

Every paragraph begins with the parts that failed or were left open, how many people would close these, and the weakest of
all parts. Causes follow, each only where what is measured shows it; where none does, the paragraph says so.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation import judges, metrics, protocol
from ..evaluation import methods as m
from ..evaluation.statistics import per_seed
from .claims import CLAIMS, Evidence, gain

MANY = 1_000  # people; beyond it nobody will ask them
OF_PEOPLE = [c.id for c in CLAIMS if c.id not in (11, 13)]  # whose unit is a person; of 11 it is a measured time, of 13 a seed
NO_CAUSE = "No cause was found among what is measured here."


class Missing(LookupError):
    """A cause that was not measured, or does not show."""


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

    def gain(self, metric: str, a: str, b: str, ta: int | None = None, tb: int | None = None) -> str:
        """A paired difference with its interval, as text; T is the middle one, or ``ta`` and ``tb``. Raises Missing."""
        part = gain(self.evidence, metric, a, ta or self.evidence.t, b, tb or ta or self.evidence.t)
        if part.missing:
            raise Missing(part.missing)
        return f"{part.estimate:+.3f} [{part.low:+.3f}, {part.high:+.3f}]"

    def losses(self, name: str, loss: str) -> pd.Series:
        """A loss of a method's fine-tunings at the middle T, mean over people and seeds: by step. Raises Missing where there are none."""
        if name not in self.tunings or not self.tunings[name][loss].notna().any():
            raise Missing(f"losses of {name}")
        return self.tunings[name].groupby("step")[loss].mean()

    def distance(self, name: str, t: int | None = None) -> float:
        """The Fréchet distance, mean over seeds. Raises Missing where there are too few frames."""
        made, true, _, seeds = self.evidence.features.get((name, t or self.evidence.t), [()] * 4)
        if not len(seeds) or min(np.unique(seeds, return_counts=True)[1]) < metrics.FEWEST_SAMPLES:
            raise Missing(name)
        return per_seed(lambda rows: metrics.frechet_distance(*np.split(rows, 2, axis=1)))(np.column_stack([made, true, seeds]))

    def halves(self, names: Sequence[str], metric: str) -> pd.DataFrame:
        """A metric on the half of the frames near to the T frames and the half far from them: rows "near" and "far", a column a method."""
        e, columns = self.evidence, {}
        for name in names:
            part = e.frames[(e.frames["T"] == e.t) & (e.frames["method"] == name)]
            if not len(part):
                raise Missing(name)
            part = part.groupby(["person", "video", "frame"])[[metric, "reach"]].mean()
            far = part["reach"] > part["reach"].groupby("person").transform("median")
            columns[name] = {"near": part[metric][~far].mean(), "far": part[metric][far].mean()}
        return pd.DataFrame(columns)


def only_if(so: bool) -> None:
    """A cause is named only where its measurement shows it: raises Missing otherwise."""
    if not so:
        raise Missing("a cause that does not show here")


def collect(evidence: Evidence, cells: Sequence[Path]) -> Backing:
    """Read off the cells of the middle T what the paragraphs need."""
    cells = [c for c in cells if protocol.about(c)[2] == evidence.t]
    errors = []
    for path in (c for c in cells if protocol.about(c)[3] == 0):
        with np.load(path) as cell:
            errors.append(metrics.landmark_error(judges.find_landmarks(cell["truth"]), cell["points"]).mean())
    return Backing(evidence, protocol.tuning_logs(cells, (m.AFTER, m.OURS, *m.ABLATIONS)), float(np.mean(errors)))


def frames_are_learned_by_heart(b: Backing) -> str:
    """What fine-tuning gains on the frames that it sees, where it gains little on others."""
    loss = b.losses(m.AFTER, "cnt")
    only_if(loss.iloc[-1] < loss.iloc[0])
    few = b.evidence.shots[0]
    return (f"At T = {b.evidence.t} fine-tuning lowers L′_CNT on the frames that it sees from {loss.iloc[0]:.2f} to {loss.iloc[-1]:.2f}; on the others it gains "
            f"{b.gain('CSIM-judge', m.AFTER, m.BEFORE)} in CSIM-judge and {b.gain('SSIM', m.AFTER, m.BEFORE)} in SSIM, at T = {few} {b.gain('CSIM-judge', m.AFTER, m.BEFORE, few)} "
            f"and {b.gain('SSIM', m.AFTER, m.BEFORE, few)}.")


def frames_say_less_and_less(b: Backing) -> str:
    few, middle, many = (b.mean(m.OURS, "CSIM-judge", t) for t in b.evidence.shots)
    only_if(many - middle < middle - few)
    low, mid, high = b.evidence.shots
    return (f"A frame says less the more there are: CSIM-judge gains {b.gain('CSIM-judge', m.OURS, m.OURS, mid, low)} from T = {low} to {mid} and {b.gain('CSIM-judge', m.OURS, m.OURS, high, mid)} "
            f"from there to {high}, SSIM {b.gain('SSIM', m.OURS, m.OURS, mid, low)} and {b.gain('SSIM', m.OURS, m.OURS, high, mid)}.")


def feed_forward_is_full(b: Backing) -> str:
    few, many = b.evidence.shots[0], b.evidence.shots[-1]
    likeness = {name: [b.mean(name, "CSIM-judge", t) for t in (few, many)] for name in (m.FEED_FORWARD, m.AFTER)}
    only_if(likeness[m.AFTER][0] > likeness[m.FEED_FORWARD][0] > b.mean(m.BEFORE, "CSIM-judge", few))
    grows = lambda name: "from {:.3f} to {:.3f}".format(*likeness[name])
    return (f"From T = {few} to {many} FF's CSIM-judge goes {grows(m.FEED_FORWARD)}, FT's {grows(m.AFTER)}. Before fine-tuning FT has {b.mean(m.BEFORE, 'CSIM-judge', few):.3f} at T = {few}, "
            "less than FF, and after it more: here a fine-tuning is worth more than FF's longer training, on one frame already.")


def start_repaired(b: Backing, row: str) -> str:
    """How far fine-tuning makes up for a random start."""
    full, this = b.losses(m.OURS, "cnt"), b.losses(row, "cnt")
    reached = this.index[this <= full.iloc[0]]
    only_if(len(reached) > 0 and this.iloc[0] - full.iloc[0] > 2 * (this.iloc[-5:].mean() - full.iloc[-5:].mean()))
    return (f"With {row}, L′_CNT begins at {this.iloc[0]:.2f}, with the full model at {full.iloc[0]:.2f}. After {reached[0] - 1} of {this.index[-1]} steps it is where that one began, and it ends at {this.iloc[-5:].mean():.2f} "
            f"against {full.iloc[-5:].mean():.2f}: fine-tuning moves all of G, not ψ′ alone, and makes up for more than half of the wrong start. What is left against the full model: "
            f"{b.gain('CSIM-judge', row, m.OURS)} in CSIM-judge and {b.gain('SSIM', row, m.OURS)} in SSIM.")


def feed_forward_is_weak(b: Backing) -> str:
    only_if(b.mean(m.OURS_BEFORE, "CSIM-judge") < b.mean(m.NEAREST, "CSIM-judge"))
    return (f"The bar, the small corpus's images before fine-tuning, is low: CSIM-judge {b.mean(m.OURS_BEFORE, 'CSIM-judge'):.2f}, where a frame of the very person in another "
            f"pose has {b.mean(m.NEAREST, 'CSIM-judge'):.2f}.")


def normal_is_no_face(b: Backing) -> str:
    only_if(b.mean(m.NORMAL_PSI, "landmark error") > 1.5 * b.mean(m.OURS, "landmark error") and b.mean(m.NORMAL_PSI, "CSIM-judge") > b.mean(m.OURS_BEFORE, "CSIM-judge"))
    pair = lambda metric, digits: f"{b.mean(m.NORMAL_PSI, metric):.{digits}f} against {b.mean(m.OURS, metric):.{digits}f}"
    return (f"{m.NORMAL_PSI}, which is not even of the right size, fares otherwise: landmark error {pair('landmark error', 3)}, SSIM {pair('SSIM', 2)}. Its CSIM-judge, "
            f"{pair('CSIM-judge', 2)}, lies above the bar all the same: CSIM-judge alone is no measure of what is plausible.")


def scores_apart(b: Backing, name: str) -> tuple[str, float]:
    """How much higher D′ scores real frames than generated ones in a row's fine-tunings: in words, and over the last steps."""
    apart = b.losses(name, "r_real") - b.losses(name, "r_fake")
    last = apart.iloc[-5:].mean()
    return f"{apart.iloc[0]:+.2f} at the first step and {last:+.2f} over the last five in the row {name}", last


def adversary_says_little(b: Backing) -> str:
    said, last = scores_apart(b, m.OURS)
    only_if(last < 1)
    return f"D′ has little to say in these fine-tunings: it scores real frames above generated ones by {said}, where L′_DSC is content with 2."


def start_of_the_adversary_hardly_counts(b: Backing) -> str:
    said, last = scores_apart(b, m.NO_MATCH_ONE_SHOT)
    only_if(last < 1)
    return (f"With a random w′, D′ scores real frames above generated ones by {said}, where L′_DSC is content with 2. Taking L′_ADV away altogether changes CSIM-judge by "
            f"{b.gain('CSIM-judge', m.NO_ADVERSARIAL, m.OURS)}: that is what can hang on the vector that D′ starts from.")


def pose_is_at_the_judges_limit(b: Backing) -> str:
    only_if(b.mean(m.OURS, "landmark error") < 1.5 * b.landmark_error)
    pair = lambda metric, digits: f"{b.mean(m.OURS, metric):.{digits}f} with the term and {b.mean(m.NO_ADVERSARIAL, metric):.{digits}f} without"
    return (f"Sharpness, over that of the truth, is {pair('sharpness', 3)}; the landmark error is {pair('landmark error', 4)}, and the judge itself errs by {b.landmark_error:.4f} on true frames: "
            "little is left to gain in pose.")


def warping_is_not_the_limit(b: Backing) -> str:
    """SSIM of X2Face less ours on frames near to and far from the training frames; its sharpness and pose."""
    half = b.halves((m.X2FACE, m.OURS), "SSIM")
    lead = half[m.X2FACE] - half[m.OURS]
    only_if(lead["near"] < 0 and b.mean(m.X2FACE, "sharpness") < b.mean(m.OURS, "sharpness") and b.mean(m.X2FACE, "landmark error") > b.mean(m.OURS, "landmark error"))
    pair = lambda metric, digits: f"{b.mean(m.X2FACE, metric):.{digits}f} against our {b.mean(m.OURS, metric):.{digits}f}"
    return (f"X2Face does not lag for want of pixels to move: its SSIM less ours is {lead['near']:+.3f} on the half of the frames nearest to the T frames and {lead['far']:+.3f} on the other half. "
            f"It is soft (sharpness {pair('sharpness', 2)}) and less exact in pose (landmark error {pair('landmark error', 3)}).")


def more_sources_do_not_blur(b: Backing) -> str:
    """X2Face's Fréchet distance, sharpness and pose by T, where the distance does not rise."""
    shots = b.evidence.shots
    distances = [b.distance(m.X2FACE, t) for t in shots]
    only_if(distances[-1] <= distances[0])
    by_t = lambda values, digits: ", ".join(f"{v:.{digits}f}" for v in values)
    return (f"For T = {', '.join(map(str, shots))} X2Face's {b.evidence.distance} is {by_t(distances, 3)}, its sharpness {by_t([b.mean(m.X2FACE, 'sharpness', t) for t in shots], 3)} and its landmark "
            f"error {by_t([b.mean(m.X2FACE, 'landmark error', t) for t in shots], 3)}: sources that are averaged by their confidence do not make its frames worse here.")


def distance_follows_likeness(b: Backing) -> str:
    """The Fréchet distance against likeness, over the methods of Table 1 that are not trivial."""
    only_if(b.evidence.distance == "FD-judge")  # whose features are made to tell people apart
    names, rows = [n for n in m.TABLE1 if n not in m.TRIVIAL], []
    for name in names:
        with suppress(Missing):
            rows.append((b.distance(name), b.mean(name, b.evidence.likeness)))
    only_if(len(rows) > 3 and (related := metrics.correlation(*np.array(rows).T)) < -0.7)
    return (f"Over {len(rows)} rows of Table 1, {b.evidence.distance} and {b.evidence.likeness} correlate at {related:+.2f}: a distance of features that tell people apart "
            f"ranks methods by likeness. Pix2pixHD has {b.distance(m.PIX2PIXHD):.3f}, ours {b.distance(m.OURS):.3f}.")


def translation_starts_from_nobody(b: Backing) -> str:
    few, many = b.evidence.shots[0], b.evidence.shots[-1]
    only_if(b.mean(m.PIX2PIXHD, "CSIM-judge", few) < b.mean(m.OURS, "CSIM-judge", few))
    row = lambda t: f"{b.mean(m.PIX2PIXHD, 'CSIM-judge', t):.3f} (ours {b.mean(m.OURS, 'CSIM-judge', t):.3f})"
    return (f"Pix2pixHD has no embedder: all that it knows of a person it learns from the T frames, in epochs that are more steps at a larger T. Its CSIM-judge is {row(few)} at "
            f"T = {few} and {row(many)} at T = {many}.")


def observer_depends_on_who_is_shown(b: Backing) -> str:
    e = b.evidence
    if e.observed is None:
        raise Missing("the observer")
    rates = e.observed[e.observed["T"] == e.t].groupby(["method", "person"])["USER-proxy"].mean().unstack(0)
    if not {m.NEAREST, m.OURS, m.X2FACE, m.PIX2PIXHD} <= set(rates):
        raise Missing("the observer on ours and the baselines")
    apart = {name: rates[name] - rates[m.OURS] for name in (m.X2FACE, m.PIX2PIXHD)}
    only_if(any(d.std() > abs(d.mean()) for d in apart.values()))
    said = " and ".join(f"{name} {d.mean():+.2f} more often, with a deviation of {d.std():.2f} from person to person" for name, d in apart.items())
    return (f"At T = {e.t} the observer finds ours in {rates[m.OURS].mean():.2f} of the triplets, where chance is 0.33; it points at a real picture, the nearest training frame, in {rates[m.NEAREST].mean():.2f}. "
            f"It finds {said}: what it finds depends on who is shown as much as on what made the picture.")


def corpora_differ_little(b: Backing) -> str:
    only_if(b.mean(m.BEFORE, "CSIM-judge") - b.mean(m.OURS_BEFORE, "CSIM-judge") > b.mean(m.AFTER, "CSIM-judge") - b.mean(m.OURS, "CSIM-judge"))
    return (f"Before any fine-tuning the large corpus's model is ahead by {b.gain('CSIM-judge', m.BEFORE, m.OURS_BEFORE)} in CSIM-judge, after it by {b.gain('CSIM-judge', m.AFTER, m.OURS)}: "
            "fine-tuning evens out what the corpora gave.")


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


def sharp_methods_are_alike_too(b: Backing) -> str:
    names = (m.X2FACE, m.PIX2PIXHD, m.OURS_BEFORE, m.OURS, m.FEED_FORWARD, m.AFTER)
    return "Sharpness and CSIM-judge by method: " + "; ".join(f"{name} {b.mean(name, 'sharpness'):.2f}, {b.mean(name, 'CSIM-judge'):.3f}" for name in names) + "."


def far_is_harder(b: Backing) -> str:
    half = b.halves((m.AFTER, m.NEAREST), "CSIM-judge")
    only_if(half.loc["far", m.AFTER] < half.loc["near", m.AFTER])
    said = "; ".join(f"{name} {half.loc['near', name]:.3f} and {half.loc['far', name]:.3f}" for name in half)
    return f"CSIM-judge on the frames near to the T frames, and far from them: {said}."


CAUSES: dict[int, Sequence[Callable[[Backing], str]]] = {
    1: (frames_are_learned_by_heart,), 2: (frames_say_less_and_less,), 3: (feed_forward_is_full, distance_follows_likeness), 4: (lambda b: start_repaired(b, m.RANDOM_E), feed_forward_is_weak),
    5: (lambda b: start_repaired(b, m.RANDOM_PSI), normal_is_no_face), 6: (start_of_the_adversary_hardly_counts,), 7: (lambda b: start_repaired(b, m.RANDOM_PSI), start_of_the_adversary_hardly_counts),
    8: (pose_is_at_the_judges_limit, adversary_says_little), 9: (warping_is_not_the_limit, more_sources_do_not_blur, distance_follows_likeness, translation_starts_from_nobody),
    10: (observer_depends_on_who_is_shown,), 11: (frames_take_about_as_long,), 12: (corpora_differ_little,), 13: (nothing_to_stabilise,), 14: (sharp_methods_are_alike_too,), 15: (far_is_harder,)}


def parts_of(rows: pd.DataFrame, people: int) -> str:
    """How many parts of a claim hold, show the opposite, or are open; which way the open ones lean, and how many people would close them if they are right."""
    count = rows["part holds"].str.partition(":")[0].value_counts()
    said = ", ".join(f"{count[verdict]} {words}" for verdict, words in (("yes", "as claimed"), ("no", "the opposite"), ("undecided", "open"), ("not run", "not run")) if verdict in count)
    left = rows[(rows["part holds"] == "undecided") & rows["ci_low"].notna() & (rows["estimate"] != 0)]
    if rows["id"].iloc[0] not in OF_PEOPLE or not len(left):
        return f"Parts: {said}."
    needed = sorted((people * ((left["ci_high"] - left["ci_low"]) / 2 / left["estimate"].abs()) ** 2).clip(people + 1, MANY).round().astype(int).unique())
    some = " to ".join(f"{n} or more" if n == MANY else str(n) for n in needed[:: max(1, len(needed) - 1)])
    return f"Parts: {said} ({(left['estimate'] > 0).sum()} of {len(left)} open ones on the paper's side of zero; were the estimates right, some {some} people would have an even chance of closing {'it' if len(left) == 1 else 'them'}, where {people} were asked)."


def explain(table: pd.DataFrame, backing: Backing) -> pd.DataFrame:
    """A row for every *no* and *undecided* of ``claims.csv``: id, claim, holds and why. Causes that were not measured are left out."""
    people, rows = backing.evidence.frames["person"].nunique(), []
    for number, parts in table[table["holds"].isin(["no", "undecided"])].groupby("id"):
        run = parts[parts["estimate"].notna()]
        weakest = run.loc[(run["estimate"] / (run["ci_high"] - run["ci_low"]).replace(0, np.nan)).fillna(run["estimate"]).idxmin()]
        said = [parts_of(parts, people), f"The weakest, by its interval's width: {weakest['part']}, {weakest['estimate']:+.3f} [{weakest['ci_low']:+.3f}, {weakest['ci_high']:+.3f}]."]
        found = []
        for cause in CAUSES[number]:
            with suppress(Missing):
                found.append(cause(backing))
        rows.append([number, parts["claim"].iloc[0], parts["holds"].iloc[0], " ".join([*said, *(found or [NO_CAUSE])])])
    return pd.DataFrame(rows, columns=["id", "claim", "holds", "why"])
