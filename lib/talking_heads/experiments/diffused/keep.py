"""Keeping finished weights of Diffused Heads, with what they reach, as the committed reference."""

import shutil
from pathlib import Path

import pandas as pd
import torch

from talking_heads.config import Profile
from talking_heads.experiments.diffused import ablation_table, tables
from talking_heads.experiments.diffused.evaluation import evaluation_of, measure_criteria
from talking_heads.experiments.diffused.weights import COMMANDS, runs_folder
from talking_heads.experiments.reference import check_finished, keep_training, reference_folder


def keep(profile: Profile, data: Path, results: Path, device: torch.device) -> pd.DataFrame:
    """Copy a profile's own weights, and the criteria that they meet, to the reference of its corpus.

    Weights that do not meet a criterion are kept too. Raises what :func:`evaluation_of` and
    :func:`check_finished` do.
    """
    folder, command = runs_folder(profile, results) / "diffusion", command_of("diffusion")
    check_finished(folder, command)
    evaluation = evaluation_of(profile, "scratch", data, results, device)
    criteria = measure_criteria(evaluation)
    kept = keep_training("diffusion", folder, command, 200, reference_folder(profile))
    criteria.to_csv(kept.with_name("diffusion_criteria.csv"), index=False, float_format="%.5g")
    return criteria


def keep_weights(profile: Profile, name: str, results: Path) -> Path:
    """Copy a profile's own weights of a training to the reference of its corpus. Raises what
    :func:`check_finished` does.
    """
    folder = runs_folder(profile, results) / name
    return keep_training(name, folder, command_of(name), reference=reference_folder(profile))


def keep_plain_tables(profile: Profile, results: Path) -> Path:
    """Copy what other profiles read of the plain corpus to its reference; returns the folder.

    Raises FileNotFoundError where chapter 23 has not been run.
    """
    source, target = results / profile.name / "tables", reference_folder(profile) / "tables"
    if not (source / f"{tables.TABLE1_FILE}.csv").exists():
        command = f"./run_all.sh --profile {profile.name} --only 23"
        raise FileNotFoundError(f"{source}: no {tables.TABLE1_FILE}.csv; run {command} first")
    target.mkdir(parents=True, exist_ok=True)
    for name in (tables.TABLE1_FILE, tables.COMPARED, ablation_table.METRICS):
        if (source / f"{name}.csv").exists():
            shutil.copyfile(source / f"{name}.csv", target / f"{name}.csv")
    return target


def command_of(name: str) -> str:
    """The command of a training."""
    return f"python -m talking_heads {COMMANDS[name]}"
