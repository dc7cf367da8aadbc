"""The logs of the trainings behind the weights: thinned, and summarised for tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from talking_heads.config import Profile
from talking_heads.experiments.reference import COMMITTED, thin
from talking_heads.training.loop import LOG

LAST = 10  # thinned rows at a training's end


def curves(profile: Profile, weights: str, results: Path) -> dict[str, list[dict]]:
    """Thinned logs of the trainings behind the weights, by variant."""
    section = profile.few_shot.trainings
    variants = section.variants
    if weights == "reference":
        folder = COMMITTED / section.reference_part / "weights"
        files = {variant: folder / f"{variant}.json" for variant in variants}
        return {v: json.loads(path.read_text(encoding="utf-8")) for v, path in files.items() if path.exists()}
    runs = Path(results) / profile.name / "runs"
    logs = {variant: runs / f"meta-{variant}" / LOG for variant in variants}
    return {variant: thin(path) for variant, path in logs.items() if path.exists()}


def plateau(rows: Sequence[dict]) -> dict[str, float]:
    """Where a training's validation loss is lowest, and the gain of the last tenth; NaN without validation
    losses.
    """
    log = pd.DataFrame(rows, columns=["step", "validation"]).set_index("step")["validation"]
    steps, log = log.index.max(), log.dropna()
    values = dict.fromkeys(("lowest", "at step", "last", "gain of the last tenth"), float("nan"))
    if len(log):
        before = log[log.index <= 0.9 * steps]
        values = {
            "lowest": log.min(),
            "at step": log.idxmin(),
            "last": log.iloc[-1],
            "gain of the last tenth": (before.iloc[-1] if len(before) else np.nan) - log.iloc[-1],
        }
    return {"steps": steps, **values}


def steadiness(rows: Sequence[dict]) -> dict[str, Any]:
    """Whether a training is stable: L_CNT when D joins and at the end, the largest gradient norm, D's lead.

    Losses are means of five thinned rows, the lead is a mean of ``LAST``.
    """
    log = pd.DataFrame(rows, columns=["step", "cnt", "r_real", "r_fake", "grad_norm"])
    content, adversarial = log[log["r_real"].isna()], log.dropna(subset=["r_real"])
    before = content.iloc[-5:] if len(content) else adversarial.iloc[:5]
    start, end = before["cnt"].mean(), adversarial["cnt"].iloc[-5:].mean()
    lead = (adversarial["r_real"] - adversarial["r_fake"]).iloc[-LAST:].mean()
    verdict = "stable" if end <= start else "unstable"
    if not len(adversarial):
        verdict = "without D"
    return {
        "L_CNT when D joins": start,
        "L_CNT at the end": end,
        "largest gradient norm": adversarial["grad_norm"].max(),
        "D, real minus fake, last ten": lead,
        "verdict": verdict,
    }
