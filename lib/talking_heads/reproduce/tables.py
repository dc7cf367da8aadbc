"""Tables with the paper's numbers beside ours, as .csv, .md and .tex."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation import metrics, protocol
from ..evaluation.statistics import interval
from ..profiles import Profile

COLUMNS = ["corpus", "method", "T", "metric", "value", "ci_low", "ci_high", "n_people", "n_frames", "n_seeds", "paper_value", "verdict", "run_id"]
SHOWN = ["SSIM", "CSIM-judge", "landmark error", "mouth correlation", "eyes correlation", "FD-judge", "KD-judge x 1000", "FID", "KID", "CSIM", "USER"]
VERDICTS = ("within CI", "within tolerance", "better", "worse", "not comparable", "not run")
TOLERANCE = 0.05  # of the paper's value
LOWER_IS_BETTER = {"FID", "KID", "USER", "FD-judge", "KD-judge x 1000", "landmark error"}
# what a metric needs that may not be there, and how to get it
NEEDS = {"FID": "inception", "KID": "inception", "CSIM": "arcface"}


def paper_numbers() -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name("paper_numbers.csv"))


def corpus_name(profile: Profile) -> str:
    return {"voxceleb1": "VoxCeleb1", "voxceleb2": "VoxCeleb2"}.get(profile.corpus_layout, "own videos") if profile.corpus == "videos" else "procedural speakers"


def is_papers(profile: Profile) -> bool:
    """Whether a profile runs the paper's data at the paper's size; anything else is not comparable."""
    return corpus_name(profile) in ("VoxCeleb1", "VoxCeleb2") and profile.image_size == 256


def verdict(metric: str, value: float | None, low: float | None, high: float | None, paper: float | None, comparable: bool) -> str:
    """How a number stands to the paper's."""
    if value is None or np.isnan(value):
        return "not run"
    if not comparable or paper is None or np.isnan(paper):
        return "not comparable"
    if low is not None and low <= paper <= high:
        return "within CI"
    if abs(value - paper) <= TOLERANCE * abs(paper):
        return "within tolerance"
    return "better" if (value < paper) == (metric in LOWER_IS_BETTER) else "worse"


def paper_value(profile: Profile, method: str, t: int, metric: str) -> float:
    """The paper's number for a row: from the same corpus, or from VoxCeleb2 for procedural speakers; nan where it has none."""
    corpus = corpus_name(profile) if is_papers(profile) else "VoxCeleb2"
    name = "Ours" if corpus == "VoxCeleb1" and method == protocol.AFTER else method
    rows = paper_numbers().query("corpus == @corpus and method == @name and T == @t and metric == @metric")
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def table1(frames: pd.DataFrame, features: dict, profile: Profile, run_id: str, extra: dict | None = None) -> pd.DataFrame:
    """Table 1's rows for our method: every metric of every method and T with its interval over people.

    ``extra`` maps (method, T, metric) to a value where Inception or ArcFace measured one; metrics that need networks that
    are not there have a row without a value and the verdict "not run".
    """
    rows = []

    def add(method: str, t: int, metric: str, value: float, low: float, high: float, people: int, n: int, seeds: int) -> None:
        paper = paper_value(profile, method, t, metric)
        say = verdict(metric, value, None if np.isnan(low) else low, high, paper, is_papers(profile))
        rows.append([corpus_name(profile), method, t, metric, value, low, high, people, n, seeds, paper, say, run_id])

    nan = float("nan")
    for method in (m for m in protocol.METHODS if m not in set(frames["method"])):  # its weights are not there
        for t in sorted(frames["T"].unique()):
            for metric in ("SSIM", "CSIM-judge", "landmark error", *NEEDS, "USER"):
                add(method, t, metric, nan, nan, nan, 0, 0, 0)
    for (method, t), part in frames.groupby(["method", "T"], sort=False):
        people, seeds = part["person"].nunique(), part["seed"].nunique()
        shape = (people, len(part), seeds)
        for metric in ("SSIM", "CSIM-judge", "landmark error"):
            means = protocol.per_person(frames, method, t, metric).to_numpy()
            add(method, t, metric, float(means.mean()), *(interval(means) if people > 1 else (nan, nan)), *shape)
        for opening in ("mouth", "eyes"):
            add(method, t, f"{opening} correlation", metrics.correlation(part[opening].to_numpy(), part[f"{opening} wanted"].to_numpy()), nan, nan, *shape)
        made, true = features[method, t]
        if len(made) >= metrics.FEWEST_SAMPLES:
            add(method, t, "FD-judge", metrics.frechet_distance(made, true), nan, nan, *shape)
            add(method, t, "KD-judge x 1000", 1000 * metrics.kernel_distance(made, true), nan, nan, *shape)
        for metric in (*NEEDS, "USER"):
            add(method, t, metric, (extra or {}).get((method, t, metric), nan), nan, nan, *shape)
    return pd.DataFrame(rows, columns=COLUMNS)


def wide(table: pd.DataFrame, metrics_: list[str]) -> pd.DataFrame:
    """The paper's layout: a row for each method and T, a column for each metric, "value [low, high] (paper)"."""
    def text(r: pd.Series) -> str:
        if np.isnan(r["value"]):
            needs = {"USER": ": needs people's answers"} | {m: f": needs weights fetch {n}" for m, n in NEEDS.items()}
            return f"not run{needs.get(r['metric'], '') if r['n_people'] else ''}" + ("" if np.isnan(r["paper_value"]) else f" (paper {r['paper_value']:g})")
        digits = 1 if abs(r["value"]) >= 10 else 3
        interval_ = "" if np.isnan(r["ci_low"]) else f" [{r['ci_low']:.{digits}f}, {r['ci_high']:.{digits}f}]"
        return f"{r['value']:.{digits}f}{interval_}" + ("" if np.isnan(r["paper_value"]) else f" (paper {r['paper_value']:g})")

    cells = table.assign(cell=table.apply(text, axis=1)).pivot(index=["T", "method"], columns="metric", values="cell")
    order = [(t, m) for t in sorted(table["T"].unique()) for m in protocol.METHODS if (t, m) in cells.index]
    return cells.loc[order, [m for m in metrics_ if m in cells.columns]].fillna("not run").reset_index()


def markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(str(v) for v in row) + " |" for row in table.itertuples(index=False)]) + "\n"


def write(table: pd.DataFrame, shown: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """``<name>.csv`` in long form, ``.md`` and ``.tex`` as people read it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "tex")]
    table.to_csv(paths[0], index=False, float_format="%.6g")
    paths[1].write_text(f"{caption}\n\n{markdown(shown)}")
    paths[2].write_text(f"% {caption}\n" + latex(shown))
    return paths


def latex(table: pd.DataFrame) -> str:
    escape = lambda v: str(v).replace("_", r"\_").replace("%", r"\%").replace("#", r"\#")
    body = [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    head = " & ".join(map(escape, table.columns)) + r" \\"
    return "\n".join([r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}"]) + "\n"
