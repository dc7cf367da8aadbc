"""The table of the ablations: means and paired differences of their settings."""

from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from talking_heads.config import Profile, load
from talking_heads.experiments.diffused import tables
from talking_heads.experiments.diffused.ablation_settings import (
    COUNTS,
    MOTION,
    SOUND,
    Setting,
    SettingName,
    settings,
)
from talking_heads.experiments.diffused.clip_metrics import LMD, PER
from talking_heads.experiments.diffused.protocol import OURS, frame_count
from talking_heads.experiments.reference import is_plain, measured_table
from talking_heads.judges.faces import reliability
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.workbook.write_table import write_table

METRICS, TABLE = "ablation_metrics", "diffused_ablations"  # names of tables: by identity, and the means
COLUMNS = ["ablation", "setting", "baseline", "metric", "value", "ci_low", "ci_high"]
DIFFERENCE = ["difference", "difference, low", "difference, high"]  # and its interval
COLUMNS += ["n_identities", "n_seeds", "seed_sd", *DIFFERENCE]
FIGURE5 = "figures/diffused_figure5.png"
NAMES = ["ablation", "setting", "seed", "identity"]  # columns that are no metrics


def measurements(profile: Profile, results: Path) -> pd.DataFrame:
    """The metrics of a profile's ablations, or of the reference's (:func:`measured_table`)."""
    return measured_table(METRICS, profile, results, {"setting": str})


def write(means: pd.DataFrame, profile: Profile, folder: Path) -> None:
    """Write the table of a profile's ablations below a folder of results."""
    caption = (
        f"Ablations of Diffused Heads: {profile.diffused.protocol.ablation_steps} steps each, from the same "
        "weights, which were trained with the baseline's setting; settings of generation are not trained. "
        "Intervals are over identities; seed_sd, of several seeds, is the deviation between trainings. "
        + reliability(profile.data.real)
    )
    write_table(means, means.round(4), folder / "tables", TABLE, caption.strip())


def chosen_settings(only: Sequence[str]) -> list[Setting]:
    """The settings of these ablations, all without. Raises ValueError for one that does not exist."""
    names = dict.fromkeys(setting.ablation for setting in settings())
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"no ablation {', '.join(map(repr, unknown))}; there are: {'; '.join(names)}")
    return [setting for setting in settings() if not only or setting.ablation in only]


def merge_measured(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of an earlier table, where there is one, with those of the same settings and seeds replaced.

    Raises ValueError where the earlier ones are of other identities.
    """
    if not path.exists():
        return rows
    earlier, names = pd.read_csv(path, dtype={"setting": str}), NAMES[:-1]
    if set(earlier["identity"]) != set(rows["identity"]):
        raise ValueError(f"{path}: measured on other identities; measure all ablations again, without --only")
    again = pd.MultiIndex.from_frame(earlier[names]).isin(pd.MultiIndex.from_frame(rows[names]))
    return pd.concat([earlier[~again], rows], ignore_index=True)


def closest_pair(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """The two neighbouring trained settings, (ablation, setting), whose LMD differs least.

    The difference is measured in half widths of its interval.
    """
    trained = [setting for setting in settings() if setting.trained]
    distances: dict[tuple, float] = {}
    for a, b in pairwise(trained):
        if a.ablation == b.ablation:
            difference = mean_estimate(paired_differences(rows, a[:2], b[:2], LMD))
            width = (difference.high - difference.low) / 2
            distances[a[:2], b[:2]] = abs(difference.value) / width if width else np.inf
    return set(min(distances.items(), key=lambda item: item[1])[0])


def rows_of(rows: pd.DataFrame, setting: SettingName) -> pd.DataFrame:
    """The rows of a setting."""
    ablation, name = setting
    return rows[(rows["ablation"] == ablation) & (rows["setting"] == name)]


def of_first_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first seed: values of settings with one seed and with several can be compared."""
    return rows[rows["seed"] == rows["seed"].min()]


def paired_differences(
    rows: pd.DataFrame, first: SettingName, second: SettingName, metric: str
) -> np.ndarray:
    """A setting minus another one in a metric, for each identity (n,): paired by seed and identity."""
    index = ["seed", "identity"]
    values = [rows_of(rows, which).set_index(index)[metric] for which in (first, second)]
    differences = (values[0] - values[1]).dropna()  # of seeds and identities that both have
    return differences.groupby("identity").mean().to_numpy()


def table(rows: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The ablations: means over identities, and paired differences to the unchanged profile.

    The baseline is the setting of the same ablation that changes nothing. An ablation of training without
    one, such as motion frames in grey, uses the same training under "motion frames". Controls have no
    baseline. Columns ablation, setting, baseline, metric, value, ci_low, ci_high, difference with its
    interval, n_identities, n_seeds, and seed_sd, the deviation of the means between seeds, which no interval
    contains. Values are those of the first seed, which all settings have.
    """
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS)
    baselines = {setting.ablation: setting for setting in settings() if setting.is_baseline(profile)}
    table_rows = []
    for setting in settings():
        values = rows_of(rows, setting[:2])
        if values.empty:
            continue
        baseline = baselines.get(setting.ablation, baselines.get(MOTION) if setting.trained else None)
        for metric in values.columns.difference(NAMES, sort=False):
            means = of_first_seed(values).groupby("identity")[metric].mean().dropna()
            if means.empty:  # a metric that was not yet measured
                continue
            estimate = mean_estimate(means.to_numpy())
            row = {
                "ablation": setting.ablation,
                "setting": setting.name,
                "baseline": setting == baseline,
                "metric": metric,
                "value": estimate.value,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "n_identities": len(means),
                "n_seeds": values["seed"].nunique(),
                "seed_sd": values.groupby("seed")[metric].mean().std(),
            }
            if baseline is not None and setting != baseline:
                difference = mean_estimate(paired_differences(rows, setting[:2], baseline[:2], metric))
                row |= {"difference": difference.value}
                row |= {"difference, low": difference.low, "difference, high": difference.high}
            table_rows.append(row)
    return pd.DataFrame(table_rows, columns=COLUMNS)


def table3(means: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The rows of a :func:`table` that the paper's Table 3 has, with the columns of :func:`tables.table3`."""
    rows = []
    metrics = (*tables.TABLE3, PER, f"true {PER}")
    for grey, ablation in SOUND.items():
        chosen = means[(means["ablation"] == ablation) & means["metric"].isin(metrics)]
        method = f"{OURS}, {profile.diffused.protocol.ablation_steps} steps each"
        corpus = {"corpus": tables.corpus_name(profile), "source": "here", "verdict": "not comparable"}
        conditions = {"audio_windows": chosen["setting"].astype(int), "motion_grey": grey}
        rows.append(chosen.assign(method=method, **corpus, **conditions))
    names = ["corpus", "method", "audio_windows", "motion_grey", "metric", "value", "ci_low", "ci_high"]
    return pd.concat(rows, ignore_index=True)[[*names, "n_identities", "source", "verdict"]]


def plot_table3(rows: pd.DataFrame) -> Figure:
    """Three metrics of rows of :func:`tables.table3` over the number of motion audio embeddings, with motion
    frames in grey and in colour: the paper's above, those measured here below.
    """
    panels = list(product(("paper",), ("LMD", "WER", "SSIM"))) + list(product(("here",), (LMD, PER, "SSIM")))
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharex=True, layout="constrained")
    for axis, (source, metric) in zip(axes.flat, panels, strict=True):
        chosen = rows[(rows["source"] == source) & (rows["metric"] == metric)].sort_values("audio_windows")
        for grey, kind in ((False, "colour"), (True, "grey")):
            of_kind = chosen[chosen["motion_grey"].astype(bool) == grey]
            value, low, high = (of_kind[name].to_numpy(float) for name in ("value", "ci_low", "ci_high"))
            place = of_kind["audio_windows"] + (0.06 if grey else -0.06)  # intervals do not overlap
            errors, colour = [value - low, high - value], "0.45" if grey else "tab:red"
            label = f"motion frames in {kind}"
            axis.errorbar(place, value, errors, fmt="o-", ms=4, capsize=3, color=colour, label=label)
        arrow = "↓" if metric in tables.LOWER_IS_BETTER else "↑"
        axis.set_title(f"{metric} {arrow} ({source})", fontsize=10)
        axis.set_xticks(COUNTS)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=8)
    figure.supxlabel("motion audio embeddings on each side", fontsize=10)
    return figure


def trained_on_plain(profile: Profile, results: Path) -> pd.DataFrame:
    """Rows of :func:`tables.table1` on the plain corpus: our network after the short training of an ablation
    there. The network of our other row has never seen that corpus, on which SDA was trained.

    Empty where it was not measured, and for other corpora than the diverse one.
    """
    if profile.data.real or is_plain(profile):
        return pd.DataFrame()
    plain = load(tables.PLAIN_PROFILE)
    setting = (SOUND[plain.diffused.conditions.motion_grey], str(plain.diffused.conditions.audio_windows))
    ablated, compared = measurements(plain, results), measured_table(tables.COMPARED, plain, results)
    if ablated.empty or compared.empty:
        return pd.DataFrame()
    trained = of_first_seed(rows_of(ablated, setting)).set_index("identity")
    usual = compared[compared["method"] == OURS].set_index("identity")
    method = f"{OURS}, {plain.diffused.protocol.ablation_steps} more steps on this corpus"
    table_rows, frames = [], len(trained) * frame_count(plain)
    for metric in tables.TABLE1:
        names = {"corpus": tables.corpus_name(plain), "method": method, "metric": metric}
        over_ours = mean_estimate((trained[metric] - usual[metric]).dropna().to_numpy())
        means = trained[metric].to_numpy()
        table_rows.append(tables.measured_row(names, means, frames, over_ours, "not comparable"))
    return pd.DataFrame(table_rows)


def grey_differences(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Motion in grey minus in colour, a row for each number of motion audio embeddings and each metric.

    Columns setting, metric and difference with its interval, as in a :func:`table`.
    """
    table_rows = []
    for count, metric in product(map(str, COUNTS), metrics) if len(rows) else ():
        pair = (SOUND[True], count), (SOUND[False], count)
        table_rows.append([count, metric, *mean_estimate(paired_differences(rows, *pair, metric))[:3]])
    return pd.DataFrame(table_rows, columns=["setting", "metric", *DIFFERENCE])


def grey_lines(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Motion in grey minus in colour, a line for each number of motion audio embeddings."""
    lines = []
    for count, of_count in grey_differences(rows, metrics).groupby("setting"):
        differences = of_count[["metric", *DIFFERENCE]].itertuples(index=False)
        texts = [
            f"{metric} {tables.with_interval(value, low, high, '+.3g')}"
            for metric, value, low, high in differences
        ]
        lines.append(f"grey minus colour, {count} per side: {', '.join(texts)}")
    return lines


def difference_lines(table: pd.DataFrame, ablation: str, metrics: Sequence[str]) -> list[str]:
    """How every setting of an ablation differs from the baseline, a line for each."""
    chosen = table[(table["ablation"] == ablation) & table["metric"].isin(metrics)]
    columns = ["metric", *DIFFERENCE]
    lines = []
    for name, rows in chosen.dropna(subset="difference").groupby("setting", sort=False):
        differences = [
            f"{metric} {tables.with_interval(value, low, high, '+.3g')}"
            for metric, value, low, high in rows[columns].itertuples(index=False)
        ]
        lines.append(f"{ablation} {name}: {', '.join(differences)}")
    return lines
