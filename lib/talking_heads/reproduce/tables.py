"""Tables with the paper's numbers beside ours, as .csv, .md and .tex."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation import methods, metrics, protocol
from ..evaluation.statistics import interval, pooled_interval
from ..profiles import Profile

COLUMNS = ["corpus", "method", "T", "metric", "value", "ci_low", "ci_high", "n_people", "n_frames", "n_seeds", "seed_sd", "paper_value", "verdict", "run_id"]
SHOWN = ["SSIM", "CSIM-judge", "landmark error", "mouth correlation", "eyes correlation", "FD-judge", "KD-judge x 1000", "USER-proxy",
         "FID", "KID", "CSIM", "USER"]
VERDICTS = ("within CI", "within tolerance", "better", "worse", "not comparable", "not run")
TOLERANCE = 0.05  # of the paper's value
LOWER_IS_BETTER = {"FID", "KID", "USER", "USER-proxy", "FD-judge", "KD-judge x 1000", "landmark error"}
OF_THE_TRUTH = {"sharpness"}  # shares of the true value: the nearer to 1 the better
# where the mean of a metric cannot lie outside: Student's interval of few people does not know
RANGES = {"USER-proxy": (0, 1), "landmark error": (0, np.inf)} | {m: (-1, 1) for m in ("SSIM", "CSIM", "CSIM-judge", "mouth correlation", "eyes correlation")}
# what a metric needs that may not be there, and how to get it
NEEDS = {"FID": "inception", "KID": "inception", "CSIM": "arcface"}


def better(metric: str, values: np.ndarray) -> np.ndarray:
    """The values of a metric, turned so that more is better."""
    return -abs(values - 1) if metric in OF_THE_TRUTH else -values if metric in LOWER_IS_BETTER else values


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


def paper_value(method: str, t: int, metric: str) -> float:
    """The paper's number for a row: of VoxCeleb1 for methods of the small corpus, of VoxCeleb2 for the large one; nan where it has none."""
    corpus = {methods.SMALL: "VoxCeleb1", methods.LARGE: "VoxCeleb2"}.get(methods.CORPUS.get(method, ""))
    rows = paper_numbers().query("corpus == @corpus and method == @method and T == @t and metric == @metric")
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def table1(frames: pd.DataFrame, features: dict, profile: Profile, run_id: str, extra: dict | None = None,
           observed: pd.DataFrame | None = None, users: pd.DataFrame | None = None, names: Sequence[str] = methods.TABLE1) -> pd.DataFrame:
    """Every metric of every method of ``names`` and every T, with its interval over people.

    ``extra`` maps (method, T, metric) to a value, or to one of every person, where Inception or ArcFace measured it; ``observed``
    holds columns method, T, person and USER-proxy, ``users`` what people answered (see :mod:`user_study`). ``seed_sd`` is the
    deviation between fine-tuning seeds. What was not measured has a row without a value and the verdict "not run".
    """
    rows = []
    nan = float("nan")

    def add(method: str, t: int, metric: str, value: float, low: float, high: float, people: int, n: int, seeds: int, spread: float = nan) -> None:
        low, high = np.clip([low, high], *RANGES.get(metric, (-np.inf, np.inf))).tolist()
        paper = paper_value(method, t, metric)
        say = verdict(metric, value, None if np.isnan(low) else low, high, paper, is_papers(profile))
        size = methods.CORPUS.get(method, "")
        rows.append([corpus_name(profile) + (f", {size}" if size else ""), method, t, metric, value, low, high, people, n, seeds, spread, paper, say, run_id])

    def add_means(method: str, t: int, metric: str, means: np.ndarray, *shape: float) -> None:
        add(method, t, metric, float(means.mean()), *(interval(means) if len(means) > 1 else (nan, nan)), *shape)

    for method, t in product(names, sorted(frames["T"].unique())):
        part = frames[(frames["method"] == method) & (frames["T"] == t)]
        if not len(part):  # its weights are not there
            for metric in ("SSIM", "CSIM-judge", "landmark error", "USER-proxy", *NEEDS, "USER"):
                add(method, t, metric, nan, nan, nan, 0, 0, 0)
            continue
        shape = (part["person"].nunique(), len(part), part["seed"].nunique())
        for metric in ("SSIM", "CSIM-judge", "landmark error"):
            add_means(method, t, metric, protocol.per_person(frames, method, t, metric).to_numpy(), *shape, part.groupby("seed")[metric].mean().std())
        for opening in ("mouth", "eyes"):
            pairs = [g[[opening, f"{opening} wanted"]].to_numpy() for _, g in part.groupby("person")]
            related = lambda rows_: metrics.correlation(*rows_.T)
            spread = pd.Series([related(g[[opening, f"{opening} wanted"]].to_numpy()) for _, g in part.groupby("seed")]).std()
            add(method, t, f"{opening} correlation", related(np.concatenate(pairs)), *(pooled_interval(related, pairs) if len(pairs) > 1 else (nan, nan)), *shape, spread)
        made, true, _ = features[method, t]
        if len(made) >= metrics.FEWEST_SAMPLES:
            add(method, t, "FD-judge", metrics.frechet_distance(made, true), nan, nan, *shape)
            scale = made.shape[1] ** 0.5  # the judge's features have length 1, the kernel is made for components of size 1
            add(method, t, "KD-judge x 1000", 1000 * metrics.kernel_distance(made * scale, true * scale, paired=True), nan, nan, *shape)
        if observed is not None and len(seen := observed[(observed["method"] == method) & (observed["T"] == t)]):
            add_means(method, t, "USER-proxy", seen["USER-proxy"].to_numpy(), *shape)
        for metric in NEEDS:
            measured = (extra or {}).get((method, t, metric), nan)
            if isinstance(measured, np.ndarray):
                add_means(method, t, metric, measured, *shape)
            else:
                add(method, t, metric, measured, nan, nan, *shape)
        asked = [] if users is None else users[(users["method"] == method) & (users["T"] == t)].itertuples()
        add(method, t, "USER", *next(((r.USER, r.ci_low, r.ci_high, r.people, r.answers, 1) for r in asked), (nan, nan, nan, *shape)))
    return pd.DataFrame(rows, columns=COLUMNS)


def table2(rows: pd.DataFrame, profile: Profile, device: str) -> pd.DataFrame:
    """Measured seconds beside the paper's, with each method's rank at its size, phase and T in both, and whether all agree.

    Where a profile's own size is the paper's, and was measured twice, the first counts.
    """
    known, where = pd.read_csv(Path(__file__).with_name("paper_timings.csv")), ["size", "phase", "T"]
    table = rows.drop_duplicates([*where, "method"]).merge(known, on=["method", "phase", "T"], how="left").assign(device=device, verdict="not comparable")
    table["rank"] = table[table["paper_value"].notna()].groupby(where)["seconds"].rank()
    table["paper rank"] = table.groupby(where)["paper_value"].rank()
    differ = (table["rank"] != table["paper rank"]) & table["rank"].notna()
    table["order holds"] = ~differ.groupby([table[c] for c in where]).transform("any")
    return table.sort_values([*where, "seconds"], ignore_index=True)


def wide(table: pd.DataFrame, metrics_: list[str]) -> pd.DataFrame:
    """The paper's layout: a row for each method and T, a column for each metric, "value [low, high] (paper)"."""
    def text(r: pd.Series) -> str:
        if np.isnan(r["value"]):
            needs = {"USER": ": needs people's answers, see chapter 12"} | {m: f": needs weights fetch {n}" for m, n in NEEDS.items()}
            return f"not run{needs.get(r['metric'], '') if r['n_people'] else ''}" + ("" if np.isnan(r["paper_value"]) else f" (paper {r['paper_value']:g})")
        digits = 1 if abs(r["value"]) >= 10 else 3
        interval_ = "" if np.isnan(r["ci_low"]) else f" [{r['ci_low']:.{digits}f}, {r['ci_high']:.{digits}f}]"
        return f"{r['value']:.{digits}f}{interval_}" + ("" if np.isnan(r["paper_value"]) else f" (paper {r['paper_value']:g})")

    cells = table.assign(cell=table.apply(text, axis=1)).pivot(index=["T", "method"], columns="metric", values="cell")
    order = list(dict.fromkeys(zip(table.sort_values("T", kind="stable")["T"], table.sort_values("T", kind="stable")["method"])))
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
    paths[2].write_text(latex(shown, caption))
    return paths


# what LaTeX reads as something else, or has no letter for
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         "ψ̂": r"$\hat\psi$", "ê": r"$\hat e$", "ψ": r"$\psi$", "σ": r"$\sigma$", "′": "$'$", "²": "$^2$", "₀": "$_0$", "×": r"$\times$", "−": "$-$", "→": r"$\to$", "≥": r"$\ge$", "≤": r"$\le$"}
SPECIAL = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))


def latex(table: pd.DataFrame, caption: str) -> str:
    """A ``table`` environment that compiles as it is."""
    escape = lambda v: SPECIAL.sub(lambda hit: LATEX[hit.group()], str(v))
    line = lambda values: " & ".join(map(escape, values)) + r" \\"
    return "\n".join([r"\begin{table}", rf"\caption{{{escape(caption)}}}", r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\hline", line(table.columns), r"\hline",
                      *map(line, table.itertuples(index=False)), r"\hline", r"\end{tabular}", r"\end{table}"]) + "\n"
