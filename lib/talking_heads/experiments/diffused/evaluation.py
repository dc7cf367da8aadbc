"""The clips of Tables 1 and 3: ``evaluate --system diffused`` generates them, chapters 22 to 25 measure."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.diffused.generation import Talker
from talking_heads.experiments.diffused import acceptance, bridge, protocol
from talking_heads.experiments.diffused.clips import evaluation_clips
from talking_heads.experiments.diffused.tables import write_metrics
from talking_heads.experiments.diffused.weights import has_weights, load_model, load_sda, run_id
from talking_heads.shards import Shard

CONFIRMATION = "confirmation"  # name of the table of :func:`confirm`


def evaluation_of(
    profile: Profile,
    weights: str,
    data: Path,
    results: Path,
    device: torch.device,
    split: str = "evaluation",
) -> protocol.Evaluation:
    """A profile's evaluation, or its confirmation, with the baselines that have been trained.

    Raises what :func:`load_model` and :func:`evaluation_clips` do.
    """
    model = load_model(profile, weights, results, device)
    return protocol.Evaluation(
        profile,
        evaluation_clips(profile, Path(data), device, split),
        model.generator,
        model.encoder,
        run_id(profile, weights, results),
        Path(results) / profile.name / "runs",
        device,
        baselines_of(profile, weights, results, device),
    )


def baselines_of(
    profile: Profile, weights: str, results: Path, device: torch.device
) -> dict[str, protocol.Baseline]:
    """The baselines whose trainings are at their end, by the names of their rows."""
    loaders: dict[tuple[str, str], Callable[..., tuple[Talker, str]]] = {
        (protocol.SDA, "sda"): load_sda,
        (protocol.BRIDGE, "landmarks"): bridge.load,
    }
    baselines = {}
    for (row, name), load in loaders.items():
        if not has_weights(profile, weights, results, name):
            continue
        try:
            talker, key = load(profile, weights, results, device)
        except (ValueError, FileNotFoundError) as error:  # does not stop the evaluation of ours
            print(f"  {row}: left out, {error}", flush=True)
        else:
            baselines[row] = protocol.Baseline(talker, key)
    return baselines


def evaluate(
    profile: Profile,
    weights: str,
    data: Path,
    results: Path,
    device: torch.device,
    shard: Shard | None = None,
) -> None:
    """``python -m talking_heads evaluate --system diffused``: the clips that chapters read, all or a shard's.

    Raises what :func:`evaluation_of` and :func:`protocol.run` do.
    """
    evaluation = evaluation_of(profile, weights, data, results, device)
    rows = (*evaluation.rows, protocol.OTHER_SEED)
    chosen = protocol.run(evaluation, rows, shard)
    paths = [evaluation.path(speaker, row) for row in rows for speaker in chosen]
    print(f"{sum(path.exists() for path in paths)} of {len(paths)} clips in {evaluation.folder}")


def measure_criteria(evaluation: protocol.Evaluation) -> pd.DataFrame:
    """The criteria of :mod:`acceptance` on the clips of an evaluation, with the key of the weights."""
    chosen = protocol.run(evaluation, acceptance.ROWS)
    measured = protocol.measure(evaluation, chosen, acceptance.ROWS)
    return acceptance.check(measured).assign(weights=evaluation.weights_key)


def confirm(profile: Profile, weights: str, data: Path, results: Path, device: torch.device) -> pd.DataFrame:
    """``python -m talking_heads evaluate --system diffused --confirm``: the criteria on identities of which
    nothing has been seen before, in ``tables/confirmation.csv``.

    Raises what :func:`evaluation_of` and :func:`protocol.run` do.
    """
    criteria = measure_criteria(evaluation_of(profile, weights, data, results, device, "confirmation"))
    write_metrics(criteria, results / profile.name, CONFIRMATION)
    return criteria
