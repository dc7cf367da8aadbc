"""Tables of Diffused Heads: what was measured, with intervals over identities, beside the paper's numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch

from talking_heads.config import Profile, load
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.baselines.training import build_generator, build_predictor
from talking_heads.diffused.model import build_unet
from talking_heads.experiments.diffused import score
from talking_heads.experiments.diffused.clip_metrics import LMD, PER
from talking_heads.experiments.diffused.protocol import OURS, ROWS, Measured
from talking_heads.experiments.reference import is_plain, measured_table
from talking_heads.files import replacing
from talking_heads.judges.faces import SIMILARITIES
from talking_heads.metrics.statistics import Estimate, identity_means, mean_estimate, paired
from talking_heads.workbook.records import Record, Recorder
from talking_heads.workbook.write_table import with_interval

TABLE1, TABLE3 = ("SSIM", "PSNR"), ("CPBD", "MSE", "SSIM", "PSNR", LMD)
OF_CLIPS = (
    "mouth opening",
    "mouth width",
    PER,
    f"true {PER}",
    "mouth closed in silence",
    "blinks a second",
    "true blinks a second",
    *(f"{name}, {second} second" for name in SIMILARITIES for second in ("first", "last")),
    "flow of the head",
    "true flow of the head",
)
# neither more nor less is better
NEITHER = {
    "blinks a second",
    "true blinks a second",
    "flow of the head",
    "true flow of the head",
    f"true {PER}",
}
UNITS = {
    "MSE": "squared levels",
    "PSNR": "dB",
    LMD: "interocular distances",
    "blinks a second": "1/s",
    "true blinks a second": "1/s",
    "flow of the head": "pixels a frame",
    "true flow of the head": "pixels a frame",
}
LOWER_IS_BETTER = {"MSE", "LMD", LMD, "WER", PER}
PLAIN_PROFILE = "laptop-plain"  # the profile of the plain corpus
TABLE1_FILE = "diffused_table1"  # of chapter 23
COMPARED = "compared_metrics"  # of ours and the baselines, by identity; of chapter 23
SCORED = "scored videos"  # the corpus of videos that another program has generated
UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))
CORPUS_OF_LAYOUT = {"crema": "CREMA-D", "lrw": "LRW"}


def parameter_counts(profile: Profile) -> dict[str, int]:
    """Parameters of the networks of Diffused Heads and of its baselines in a profile."""
    section = profile.diffused
    with torch.device("meta"):  # counted, never filled
        unet, sda, predictor = build_unet(section), build_generator(section), build_predictor(section)
    modules = {
        "diffused_unet": unet,
        "audio_encoder": build_encoder(section.audio_encoder),
        "sda_generator": sda,
        "landmark_predictor": predictor,
    }
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}


def paper_numbers(table: int) -> pd.DataFrame:
    """The paper's numbers of a table: corpus, method, audio_windows, motion_grey, metric, value."""
    numbers = pd.read_csv(Path(__file__).with_name("paper_numbers.csv"))
    return numbers[numbers["table"] == table].drop(columns="table").reset_index(drop=True)


def table1(measured: Measured, profile: Profile) -> pd.DataFrame:
    """SSIM and PSNR of every row measured here, and of the paper's methods on both corpora.

    Columns corpus, method, metric, value, ci_low, ci_high, n_identities, n_frames, difference to ours with
    its interval, source ("here" or "paper") and verdict. A number measured here is *not comparable* with the
    paper's unless it is of the paper's corpus.
    """
    here = _rows(measured, TABLE1, profile)
    paper = paper_numbers(1).drop(columns=["audio_windows", "motion_grey"]).assign(source="paper")
    return pd.concat([here, paper], ignore_index=True)


def plain_table1(profile: Profile, results: Path) -> pd.DataFrame:
    """The rows of Table 1 on the plain corpus, beside those of a profile of the diverse one.

    They are those of ``results/laptop-plain``, or of the committed reference (:func:`measured_table`); empty
    where neither has them.
    """
    if profile.data.real or is_plain(profile):
        return pd.DataFrame()
    plain = load(PLAIN_PROFILE)
    rows = measured_table(TABLE1_FILE, plain, results)
    return rows[rows["corpus"] == corpus_name(plain)] if len(rows) else rows


def table3(measured: Measured, profile: Profile) -> pd.DataFrame:
    """The metrics of the ablations, of the reference model and the rows beside it, and the paper's.

    Columns as those of :func:`table1`, with the number of motion audio embeddings on each side and whether
    motion frames are grey.
    """
    conditions = profile.diffused.conditions
    here = _rows(measured, (*TABLE3, *SIMILARITIES, *OF_CLIPS), profile)
    of_diffusion = here["method"].isin(ROWS)  # the baselines have neither
    here["audio_windows"] = pd.Series(conditions.audio_windows, here.index, object).where(of_diffusion)
    here["motion_grey"] = pd.Series(conditions.motion_grey, here.index, object).where(of_diffusion)
    return pd.concat([here, paper_numbers(3).assign(source="paper")], ignore_index=True)


def write_metrics(rows: pd.DataFrame, results: Path, name: str) -> Path:
    """Write rows of single identities to ``tables/<name>.csv`` of a profile's results; returns the folder."""
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.csv") as temporary:
        rows.to_csv(temporary, index=False, float_format="%.5g")
    return folder


def record_rows(recorder: Recorder, rows: pd.DataFrame) -> None:
    """Record the values of rows of :func:`table1` or :func:`table3` that were measured here."""
    for row in rows.itertuples():
        counts = {"n_identities": int(row.n_identities), "n_frames": int(row.n_frames)}
        unit = UNITS.get(row.metric, "")
        record = Record(row.metric, row.value, unit, row.method, corpus=row.corpus, **counts)
        recorder.record(record, low=row.ci_low, high=row.ci_high)


def scored_rows(folder: Path, metrics: Sequence[str]) -> pd.DataFrame:
    """Rows from the tables that ``python -m talking_heads score`` has written to a folder: columns of
    :func:`table1` without differences, a method for each file.

    Raises ValueError for a file that is no such table, and for a second one of a method.
    """
    rows: list[pd.DataFrame] = []
    methods: set[str] = set()
    for path in sorted(folder.glob("*.csv")):
        clips = score.read_table(path)
        if (method := clips["method"].iloc[0]) in methods:
            raise ValueError(f"{path}: a second table of {method}; score it again with another --method")
        methods.add(method)
        means = score.summary(clips).query("metric in @metrics").drop(columns="n_clips")
        values = {"method": method, "n_frames": int(clips["frames"].sum())}
        rows.append(means.assign(corpus=SCORED, source="here", verdict="not comparable", **values))
    return (
        pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["corpus", "method", "metric"])
    )


def corpus_name(profile: Profile) -> str:
    """The corpus of a profile, by the paper's name where it is one of the paper's."""
    if not profile.data.real:
        return "procedural speakers" + (", plain" if is_plain(profile) else "")
    return CORPUS_OF_LAYOUT.get(profile.data.layout, "own videos")


def _rows(measured: Measured, metrics: Sequence[str], profile: Profile) -> pd.DataFrame:
    corpus = corpus_name(profile)
    verdict = "" if corpus in CORPUS_OF_LAYOUT.values() else "not comparable"
    rows = []
    for metric in metrics:
        if metric not in measured.clips and metric not in measured.frames:
            continue  # such as PER-judge of real people
        values = measured.clips if metric in measured.clips else measured.frames
        ours = _means(values, OURS, metric)
        if not np.isfinite(ours).any():  # such as CPBD of small frames
            continue
        for method in dict.fromkeys(values["method"]):
            means = _means(values, method, metric)
            # a clip without silence has no closed mouth in it
            finite = np.isfinite(means) & np.isfinite(ours)
            names = {"corpus": corpus, "method": method, "metric": metric}
            frames = int((measured.frames["method"] == method).sum())
            over_ours = paired(means[finite], ours[finite]) if method != OURS else UNKNOWN
            rows.append(measured_row(names, means[finite], frames, over_ours, verdict))
    return pd.DataFrame(rows)


def measured_row(
    names: Mapping[str, str], means: np.ndarray, frames: int, over_ours: Estimate, verdict: str
) -> dict[str, object]:
    """A row of :func:`table1` that was measured here: ``names`` are its corpus, method and metric, ``means``
    (n,) the values of identities.
    """
    estimate = mean_estimate(means)
    return {
        **names,
        "value": estimate.value,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "n_identities": len(means),
        "n_frames": frames,
        "over ours": over_ours.value,
        "over ours, low": over_ours.low,
        "over ours, high": over_ours.high,
        "source": "here",
        "verdict": verdict,
    }


def _means(values: pd.DataFrame, method: str, metric: str) -> np.ndarray:
    rows = values[values["method"] == method]
    return identity_means(rows[metric].to_numpy(float), rows["identity"].to_numpy())


def shown(table: pd.DataFrame, forms: Mapping[str, str] = MappingProxyType({})) -> pd.DataFrame:
    """A table for readers: a row for each corpus, source, method and setting, a column for each metric, with
    four digits or in the format of ``forms``.
    """
    names = ("corpus", "source", "method", "audio_windows", "motion_grey")
    index = [name for name in names if name in table]
    text = [
        with_interval(row.value, row.ci_low, row.ci_high, forms.get(row.metric, ".4g"))
        for row in table.itertuples()
    ]
    arrows = {
        metric: metric if metric in NEITHER else f"{metric} {'↓' if metric in LOWER_IS_BETTER else '↑'}"
        for metric in table["metric"].unique()
    }
    order = list(dict.fromkeys(map(tuple, table[index].fillna("").to_numpy())))
    wide = table.assign(text=text).fillna({name: "" for name in index})
    wide = wide.pivot(index=index, columns="metric", values="text").loc[order, list(arrows)]
    return wide.rename(columns=arrows).reset_index().rename_axis(columns=None)


def result_line(table: pd.DataFrame, metrics: Sequence[str]) -> str:
    """What the paper reports, what was measured here, and the verdict."""
    ours = table[(table["method"] == OURS) & table["metric"].isin(metrics)]
    here, paper = (ours[ours["source"] == source] for source in ("here", "paper"))
    for name in {"audio_windows", "motion_grey"} & set(table):
        paper = paper[paper[name].astype(float) == float(here[name].iloc[0])]
    reported = [f"{row.metric} {row.value:g} ({row.corpus})" for row in paper.itertuples()]
    measured = [
        f"{row.metric} {with_interval(row.value, row.ci_low, row.ci_high)}" for row in here.itertuples()
    ]
    corpus, verdict = here["corpus"].iloc[0], here["verdict"].iloc[0]
    reason = f"{verdict}: another corpus" if verdict else "see the interval"
    return f"Paper: {', '.join(reported)}. Here: {', '.join(measured)} ({corpus}). Verdict: {reason}."


def difference_line(table: pd.DataFrame, method: str, metrics: Sequence[str]) -> str:
    """The paired differences of a method to ours in some metrics, with their intervals."""
    rows = table[(table["method"] == method) & table["metric"].isin(metrics)]
    columns = ["metric", "over ours", "over ours, low", "over ours, high"]
    differences = [
        f"{metric} {with_interval(value, low, high, '+.3g')}"
        for metric, value, low, high in rows[columns].itertuples(index=False)
    ]
    return f"{method} minus {OURS}: {', '.join(differences)}."
