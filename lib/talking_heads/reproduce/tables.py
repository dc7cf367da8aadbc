"""Tables with the paper's numbers beside ours, as .csv, .md and .tex."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..baselines.training import build_pix2pixhd, build_x2face
from ..evaluation import methods, metrics, protocol
from ..evaluation.statistics import interval, jackknife_interval, per_seed, pooled_interval
from ..meta_learning import build
from ..profiles import Profile

COLUMNS = ["corpus", "method", "T", "metric", "value", "ci_low", "ci_high", "n_people", "n_frames", "n_seeds", "seed_sd", "paper_value", "verdict", "run_id", "needs"]
SHOWN = ["FID", "SSIM", "CSIM", "USER", "FD-judge", "KD-judge x 1000", "CSIM-judge", "USER-proxy", "landmark error", "mouth correlation", "eyes correlation", "KID"]
VERDICTS = ("within CI", "within tolerance", "better", "worse", "not comparable", "not run")
PAPERS = {methods.SMALL: "VoxCeleb1", methods.LARGE: "VoxCeleb2"}  # what the small and the large corpus are in the paper
TOLERANCE = 0.05  # of the paper's value
LOWER_IS_BETTER = {"FID", "KID", "USER", "USER-proxy", "FD-judge", "KD-judge x 1000", "landmark error"}
OF_THE_TRUTH = {"sharpness"}  # shares of the true value: the nearer to 1 the better
# where the mean of a metric cannot lie outside: Student's interval of few people does not know
RANGES = {"USER-proxy": (0, 1), "landmark error": (0, np.inf)} | {m: (-1, 1) for m in ("SSIM", "CSIM", "CSIM-judge", "mouth correlation", "eyes correlation")}
# what a metric needs that may not be there, and how to get it
NEEDS = {"FID": "weights fetch inception", "KID": "weights fetch inception", "CSIM": "weights fetch arcface and pip install onnxruntime"}
TOO_FEW = f"{metrics.FEWEST_SAMPLES} frames"


def better(metric: str, values: np.ndarray) -> np.ndarray:
    """The values of a metric, turned so that more is better."""
    return -abs(values - 1) if metric in OF_THE_TRUTH else -values if metric in LOWER_IS_BETTER else values


def paper_numbers() -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name("paper_numbers.csv"))


def corpus_name(profile: Profile) -> str:
    return {"voxceleb1": "VoxCeleb1", "voxceleb2": "VoxCeleb2"}.get(profile.corpus_layout, "own videos") if profile.corpus == "videos" else "procedural speakers"


def is_papers(profile: Profile, method: str) -> bool:
    """Whether a row is of the paper's data, of the corpus that the paper has the method on, at its size; anything else is not comparable."""
    return corpus_name(profile) == PAPERS.get(methods.CORPUS.get(method, "")) and profile.image_size == 256


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
    corpus = PAPERS.get(methods.CORPUS.get(method, ""))
    rows = paper_numbers().query("corpus == @corpus and method == @method and T == @t and metric == @metric")
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def table1(frames: pd.DataFrame, features: dict, profile: Profile, run_id: str, extra: dict | None = None,
           observed: pd.DataFrame | None = None, users: pd.DataFrame | None = None, names: Sequence[str] = methods.TABLE1) -> pd.DataFrame:
    """Every metric of every method of ``names`` and every T, with its interval over people.

    ``extra`` maps (method, T, metric) to a value, or to one of every person, where Inception or ArcFace measured it; ``observed``
    holds columns method, T, person and USER-proxy, ``users`` what people answered (see :mod:`user_study`). ``seed_sd`` is the
    deviation between fine-tuning seeds. What was not measured has a row without a value, the verdict "not run" and what it ``needs``.
    """
    rows = []
    nan = float("nan")

    def add(method: str, t: int, metric: str, value: float, low: float, high: float, people: int, n: int, seeds: int, spread: float = nan, needs: str = "") -> None:
        low, high = np.clip([low, high], *RANGES.get(metric, (-np.inf, np.inf))).tolist()
        paper = paper_value(method, t, metric)
        say = verdict(metric, value, None if np.isnan(low) else low, high, paper, is_papers(profile, method))
        size = methods.CORPUS.get(method, "")
        rows.append([corpus_name(profile) + (f", {size}" if size else ""), method, t, metric, value, low, high, people, n, seeds, spread, paper, say, run_id, needs])

    def add_means(method: str, t: int, metric: str, means: np.ndarray, *shape: float) -> None:
        add(method, t, metric, float(means.mean()), *(interval(means) if len(means) > 1 else (nan, nan)), *shape)

    for method, t in product(names, sorted(frames["T"].unique())):
        part = frames[(frames["method"] == method) & (frames["T"] == t)]
        shape = (part["person"].nunique(), len(part), part["seed"].nunique())
        lack = lambda metric, needs: add(method, t, metric, nan, nan, nan, *shape, needs=needs)
        if not len(part):
            left_out = methods.CORPUS.get(method) == methods.SMALL and t not in profile.small_shots
            for metric in SHOWN:
                lack(metric, "profile laptop-full, or this T in small_shots" if left_out else "weights that are not there")
            continue
        for metric in ("SSIM", "CSIM-judge", "landmark error"):
            add_means(method, t, metric, protocol.per_person(frames, method, t, metric).to_numpy(), *shape, part.groupby("seed")[metric].mean().std())
        for opening in ("mouth", "eyes"):
            pairs = [g[[opening, f"{opening} wanted"]].to_numpy() for _, g in part.groupby("person")]
            related = lambda rows_: metrics.correlation(*rows_.T)
            spread = pd.Series([related(g[[opening, f"{opening} wanted"]].to_numpy()) for _, g in part.groupby("seed")]).std()
            value = related(np.concatenate(pairs))
            add(method, t, f"{opening} correlation", value, *(pooled_interval(related, pairs) if len(pairs) > 1 else (nan, nan)), *shape, spread, needs="" if np.isfinite(value) else "an opening that varies")
        made, true, who, seed = features[method, t]
        scale = made.shape[1] ** 0.5  # the judge's features have length 1, the kernel is made for components of size 1
        distances = {"FD-judge": metrics.frechet_distance,
                     "KD-judge x 1000": lambda a, b: 1000 * metrics.kernel_distance(a * scale, b * scale, paired=True)}
        for metric, distance in distances.items():
            if min(np.unique(seed, return_counts=True)[1]) < metrics.FEWEST_SAMPLES:
                lack(metric, TOO_FEW)
                continue
            whole, of_one = np.column_stack([made, true, seed]), lambda r: distance(*np.split(r, 2, axis=1))
            mean, spread = per_seed(of_one), pd.Series([of_one(whole[seed == s, :-1]) for s in np.unique(seed)]).std()
            people = [whole[who == p] for p in np.unique(who)]
            enough = metrics.samples_without_one(who, seed) >= metrics.FEWEST_SAMPLES
            add(method, t, metric, mean(whole), *(jackknife_interval(mean, people) if enough else (nan, nan)), *shape, spread)
        if observed is not None and len(seen := observed[(observed["method"] == method) & (observed["T"] == t)]):
            add_means(method, t, "USER-proxy", seen["USER-proxy"].to_numpy(), *shape)
        else:
            lack("USER-proxy", "the observer")
        for metric, needs in NEEDS.items():
            measured = (extra or {}).get((method, t, metric), nan)
            if isinstance(measured, np.ndarray):
                add_means(method, t, metric, measured, *shape)
            else:
                few = any(name == metric for *_, name in extra or ())  # its network is there
                add(method, t, metric, measured, nan, nan, *shape, needs="" if np.isfinite(measured) else TOO_FEW if few else needs)
        asked = users[(users["method"] == method) & (users["T"] == t)] if users is not None else pd.DataFrame()
        for r in asked.itertuples():
            add(method, t, "USER", r.USER, r.ci_low, r.ci_high, r.people, r.answers, 1)
        if not len(asked):
            lack("USER", "people's answers, see chapter 12")
    return pd.DataFrame(rows, columns=COLUMNS)


def sizes_of(profile: Profile) -> dict[str, int]:
    """Parameters of every network of a profile, and of what is a person's in G."""
    with torch.device("meta"):  # counted, never filled
        nets, x2face = build(profile, 1), build_x2face(profile)
        pix2pixhd, patches = build_pix2pixhd(profile)
    modules = {"embedder": nets.embedder, "discriminator_convnet": nets.discriminator.convnet, "generator": nets.generator,
               "pix2pixhd_generator": pix2pixhd, "pix2pixhd_discriminator": patches,
               "x2face_embedding": x2face.embedding, "x2face_driving": x2face.driving}
    return {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()} | {"person_parameters": nets.generator.person_parameters}


def table2(rows: pd.DataFrame, device: str, run_id: str) -> pd.DataFrame:
    """Measured seconds beside the paper's, with each method's rank at its size, phase and T in both, and whether all agree.

    The columns of :func:`table1` first: ``value`` is a median of seconds, ``ci_low`` and ``ci_high`` are its quartiles. Where a
    profile's own size is the paper's, and was measured twice, the first counts.
    """
    known, where = pd.read_csv(Path(__file__).with_name("paper_timings.csv")), ["size", "phase", "T"]
    table = rows.rename(columns={"seconds": "value", "low": "ci_low", "high": "ci_high", "measured": "n_frames"})
    table = table.drop_duplicates([*where, "method"]).merge(known, on=["method", "phase", "T"], how="left")
    table = table.assign(corpus="random weights", metric=table["phase"] + " [s], " + table["size"].astype(str) + "²", n_people=0, n_seeds=0, seed_sd=np.nan,
                         verdict="not comparable", run_id=run_id, needs="", device=device)
    table["rank"] = table[table["paper_value"].notna()].groupby(where)["value"].rank()
    table["paper rank"] = table.groupby(where)["paper_value"].rank()
    differ = (table["rank"] != table["paper rank"]) & table["rank"].notna()
    held = ~differ.groupby([table[c] for c in where]).transform("any")
    table["order holds"] = held.where(table.groupby(where)["rank"].transform("count") > 0)  # where the paper has none, nothing can
    return table[[*COLUMNS, *(c for c in table if c not in COLUMNS)]].sort_values([*where, "value"], ignore_index=True)


def wide(table: pd.DataFrame, metrics_: list[str]) -> pd.DataFrame:
    """The paper's layout: a row for each T, corpus and method, a column for each metric, "value [low, high] (paper, verdict)"."""
    def text(r: pd.Series) -> str:
        said = "" if r["verdict"] in ("not comparable", "not run") else f", {r['verdict']}"
        paper = "" if np.isnan(r["paper_value"]) else f" (paper {r['paper_value']:g}{said})"
        if np.isnan(r["value"]):
            return f"not run: needs {r['needs']}{paper}"
        digits = 1 if abs(r["value"]) >= 10 else 3
        interval_ = "" if np.isnan(r["ci_low"]) else f" [{r['ci_low']:.{digits}f}, {r['ci_high']:.{digits}f}]"
        return f"{r['value']:.{digits}f}{interval_}{paper}"

    rows = ["T", "corpus", "method"]
    table = table.assign(corpus=table["corpus"].str.partition(", ")[2])
    cells = table.assign(cell=table.apply(text, axis=1)).pivot(index=rows, columns="metric", values="cell")
    order = list(table.sort_values("T", kind="stable")[rows].drop_duplicates().itertuples(index=False, name=None))
    return cells.loc[order, [m for m in metrics_ if m in cells.columns]].reset_index()


def table1_caption(table: pd.DataFrame, profile: Profile, weights: str) -> str:
    """What stands above Table 1."""
    judged = "with a verdict each" if set(table["verdict"]) - {"not comparable", "not run"} else "which are of other data or at another size: not comparable"
    return (f"Table 1, profile {profile.name}, on {corpus_name(profile)}. Square brackets: 95 % intervals over people; round ones: the paper's numbers, {judged}. X2Face is driven by the true frame, "
            f"all others by its landmarks. USER-proxy: an observer's share of fakes found, chance is 0.33. {weights}.")


def with_arrows(shown: pd.DataFrame) -> pd.DataFrame:
    """A wide table whose metrics say which way is better."""
    return shown.rename(columns={m: f"{m} {'↓' if m in LOWER_IS_BETTER else '↑'}" for m in SHOWN})


def markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(str(v) for v in row) + " |" for row in table.itertuples(index=False)]) + "\n"


def write(table: pd.DataFrame, shown: pd.DataFrame, folder: Path, name: str, caption: str) -> list[Path]:
    """``<name>.csv`` in long form, ``.md`` and ``.tex`` as people read it: no cell of these is blank."""
    shown = shown.astype(object).where(shown.notna() & (shown != ""), "–")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("csv", "md", "tex")]
    table.to_csv(paths[0], index=False, float_format="%.6g")
    paths[1].write_text(f"{caption}\n\n{markdown(shown)}")
    paths[2].write_text(latex(shown, caption))
    return paths


# what LaTeX reads as something else, or has no letter for
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         "ψ̂": r"$\hat\psi$", "ê": r"$\hat e$", "ψ": r"$\psi$", "σ": r"$\sigma$", "′": "$'$", "²": "$^2$", "₀": "$_0$", "×": r"$\times$", "−": "$-$", "→": r"$\to$", "–": "--", "é": r"\'e", "≥": r"$\ge$", "≤": r"$\le$", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}
SPECIAL = re.compile("|".join(map(re.escape, sorted(LATEX, key=len, reverse=True))))


def latex(table: pd.DataFrame, caption: str) -> str:
    """A ``table`` environment that compiles as it is."""
    escape = lambda v: SPECIAL.sub(lambda hit: LATEX[hit.group()], str(v))
    line = lambda values: " & ".join(map(escape, values)) + r" \\"
    return "\n".join([r"\begin{table}", rf"\caption{{{escape(caption)}}}", r"\begin{tabular}{" + "l" * len(table.columns) + "}", r"\hline", line(table.columns), r"\hline",
                      *map(line, table.itertuples(index=False)), r"\hline", r"\end{tabular}", r"\end{table}"]) + "\n"
