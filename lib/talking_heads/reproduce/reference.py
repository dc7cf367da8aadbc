"""Weights of trained networks: finding the ones a chapter should use, and keeping a run as the reference."""

import base64
import hashlib
import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ..baselines.training import restore_baseline
from ..evaluation import methods
from ..evaluation.methods import Method
from ..meta_learning import Networks, restore_weights
from ..profiles import Profile
from ..tensors import load_weights, sha256
from .runner import Run, plan


COMMITTED = Path(__file__).parents[3] / "results" / "reference"  # of this checkout, wherever a run's results go


def weights_path(profile: Profile, variant: str, weights: str, results: Path) -> Path:
    """Where the weights of a variant lie: committed for "reference", the profile's own run for "scratch".

    Raises ValueError where a profile has no reference weights, FileNotFoundError where the file is not there.
    """
    if weights == "reference":
        if not profile.reference_weights:
            raise ValueError(f"profile {profile.name} has no reference weights; use --weights scratch")
        path = COMMITTED / "weights" / f"{variant}.safetensors"
        remedy = "it is not among the committed weights"
    else:
        path = Path(results) / profile.name / "runs" / f"meta-{variant}" / "weights.safetensors"
        remedy = "chapter 03_meta_learning trains it"
    if not path.exists():
        raise FileNotFoundError(f"{os.path.relpath(path)}: no weights of variant {variant}; {remedy}")
    return path


def load_networks(profile: Profile, variant: str, weights: str, results: Path, device: torch.device = torch.device("cpu")) -> tuple[Networks, dict]:
    """Meta-learned networks and what made them. Raises what :func:`weights_path` does."""
    state, about = load_weights(weights_path(profile, variant, weights, results))
    return restore_weights(profile, state, device), about


def describe(about: dict) -> str:
    """A line that every table about these weights shows."""
    people = about["people"]
    number = people.get("people", people.get("videos", 0))
    return (f"{about['variant']} weights: profile {about['profile']}, step {about['step']} of {about['of']}, "
            f"{round(number * people.get('share', 1))} {'people' if 'people' in people else 'videos'}, code {about['commit'] or 'unknown'}"
            + (f", collapsed: {about['collapsed']}" if "collapsed" in about else ""))


def digest(profile: Profile, weights: str, results: Path) -> str:
    """Twelve hex digits of all of a profile's weights, as they are now."""
    return digest_of(weights_keys(profile, weights, results))


def digest_of(keys: dict[str, str]) -> str:
    """Twelve hex digits of the :func:`weights_keys` of a profile."""
    return hashlib.sha256("".join(keys.values()).encode()).hexdigest()[:12]


def weights_keys(profile: Profile, weights: str, results: Path) -> dict[str, str]:
    """Every variant's :func:`weights_key`."""
    return {v: weights_key(profile, v, weights, results) for v in profile.variants}


def weights_key(profile: Profile, variant: str, weights: str, results: Path) -> str:
    """Twelve hex digits of a variant's file, or "absent"."""
    try:
        return sha256(weights_path(profile, variant, weights, results))[:12]
    except FileNotFoundError:
        return "absent"


@dataclass
class Loaded:
    """What could be loaded of a profile's weights: networks and keys by variant, and what the tables say about them."""

    networks: dict[str, Any]
    keys: dict[str, str]
    states: dict[str, dict]
    said: str


def own(profile: Profile) -> str:
    """The variant that a profile's heads are learned from: "ft", else the small corpus's, else the first."""
    return next((v for v in ("ft", "small") if v in profile.variants), profile.variants[0])


def load_all(profile: Profile, weights: str, results: Path, device: torch.device = torch.device("cpu"), only: Sequence[str] | None = None) -> Loaded:
    """Networks of every variant of the profile (or of ``only``) that is there."""
    out, said = Loaded({}, {}, {}, ""), []
    for variant in only or profile.variants:
        try:
            state, about = load_weights(weights_path(profile, variant, weights, results))
        except FileNotFoundError:
            said.append(f"{variant} weights: not there")
            continue
        restore = restore_baseline if variant in ("x2face", "pix2pixhd") else None
        out.networks[variant] = restore(profile, variant, state, device) if restore else restore_weights(profile, state, device)
        out.keys[variant], out.states[variant] = weights_key(profile, variant, weights, results), state
        said.append(describe(about))
    out.said = ". ".join(said)
    return out


def table1_methods(loaded: Loaded, profile: Profile, extractors: Sequence) -> list[Method]:
    """Table 1's methods, as far as their weights are there, and the rows that learn nothing."""
    nets, keys, out = loaded.networks, loaded.keys, []
    if "ft" in nets:
        out += methods.ours(nets["ft"], keys["ft"], profile, extractors, methods.BEFORE, methods.AFTER)
    if "ff" in nets:
        out += methods.ours(nets["ff"], keys["ff"], profile, extractors, methods.FEED_FORWARD, "")[:1]
    if "small" in nets:
        out += methods.ours(nets["small"], keys["small"], profile, extractors, methods.OURS_BEFORE, methods.OURS)
    out += methods.baselines(nets["x2face"][0] if "x2face" in nets else None, nets.get("pix2pixhd"), keys, profile, extractors)
    return out + methods.trivial()


def ablation_methods(loaded: Loaded, profile: Profile, extractors: Sequence, e_hats: Tensor) -> list[Method]:
    """The ablations' methods and the full model, from the weights named :func:`base`; ``e_hats`` are validation people's embeddings."""
    nets, keys = loaded.networks, dict(loaded.keys)
    no_match = {}
    for variant, name in (("no-match", methods.NO_MATCH), ("no-match-one-shot", methods.NO_MATCH_ONE_SHOT)):
        if variant in nets:
            w0 = nets[variant].discriminator.w0
            no_match[name] = (nets[variant], *(loaded.states[variant][k].to(w0.device) for k in ("w.mean", "w.std")))
            keys[name] = keys[variant]
    start = base(loaded, profile)
    full = methods.ours(nets[start], keys[start], profile, extractors, methods.OURS_BEFORE, methods.OURS)
    return [*methods.ablations(nets[start], no_match, e_hats, {**keys, "full": keys[start]}, profile, extractors), *full]


def base(loaded: Loaded, profile: Profile) -> str:
    """What is ablated: the small corpus's full model, or the profile's own where there is none."""
    return "small" if "small" in loaded.networks else own(profile)


def ablation_cells(runs: Path, start: str) -> Path:
    """Where the ablations of :func:`base` lie: among Table 1's where that is the small corpus's model, whose rows have the same names."""
    return runs / ("cells" if start == "small" else f"cells-{start}")


def curves(profile: Profile, weights: str, results: Path) -> dict[str, list[dict]]:
    """Logged rows of the trainings behind the weights, thinned: variant -> rows."""
    if weights == "reference":
        files = {v: COMMITTED / "weights" / f"{v}.json" for v in profile.variants}
        return {v: json.loads(path.read_text()) for v, path in files.items() if path.exists()}
    logs = {v: Path(results) / profile.name / "runs" / f"meta-{v}" / "stats.jsonl" for v in profile.variants}
    return {v: thinned(path) for v, path in logs.items() if path.exists()}


def plateau(rows: Sequence[dict]) -> dict[str, float]:
    """Where a training's validation loss was lowest, and what its last tenth won; nan where it was never looked at."""
    log = pd.DataFrame(rows, columns=["step", "validation"]).set_index("step")["validation"]
    steps, log = log.index.max(), log.dropna()
    if not len(log):
        return {"steps": steps, **dict.fromkeys(("lowest", "at step", "last", "won in the last tenth"), np.nan)}
    early = log[log.index <= 0.9 * steps]
    return {"steps": steps, "lowest": log.min(), "at step": log.idxmin(), "last": log.iloc[-1], "won in the last tenth": (early.iloc[-1] if len(early) else np.nan) - log.iloc[-1]}


def steadiness(rows: Sequence[dict]) -> dict[str, Any]:
    """Whether a training held: L_CNT when D joined and at its end (means of five logged steps), the largest gradient norm, D's lead."""
    log = pd.DataFrame(rows, columns=["step", "cnt", "r_real", "r_fake", "grad_norm"])
    with_d = log.dropna(subset=["r_real"])
    alone = log[log["r_real"].isna()]
    start, end = (alone.iloc[-5:] if len(alone) else with_d.iloc[:5])["cnt"].mean(), with_d["cnt"].iloc[-5:].mean()
    return {"L_CNT when D joined": start, "L_CNT at the end": end, "largest gradient norm": with_d["grad_norm"].max(),
            "D, real less fake, last ten": (with_d["r_real"] - with_d["r_fake"]).iloc[-10:].mean(), "verdict": "no D in it" if not len(with_d) else "stable" if end <= start else "unstable"}


def thinned(log: Path, every: int = 20) -> list[dict]:
    """Every ``every``-th row of a training's log, and all rows with a validation loss."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [r for i, r in enumerate(rows) if i % every == 0 or "validation" in r]


def keep_weights(profile: Profile, variant: str, results: Path) -> Path:
    """Copy a training's weights and its log, thinned, to the committed ones.

    Raises FileNotFoundError where it was never begun, ValueError where it has not come to its end.
    """
    source, target = Path(results) / profile.name / "runs" / "reference" / f"meta-{variant}", COMMITTED / "weights" / f"{variant}.safetensors"
    about = load_weights(source / "weights.safetensors")[1]
    if about["step"] < about["of"] and "collapsed" not in about:
        raise ValueError(f"{source}: step {about['step']} of {about['of']}; python -m talking_heads meta-learn --variant {variant} goes on with it")
    log = json.dumps(thinned(source / "stats.jsonl"))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "weights.safetensors", target)
    target.with_suffix(".json").write_text(log)
    return target


def kept_table(name: str, otherwise: pd.DataFrame) -> pd.DataFrame:
    """A table of the reference results; ``otherwise`` where it is not there."""
    path = COMMITTED / "tables" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else otherwise


def compress_pictures(path: Path) -> None:
    """Turn the PNG outputs of an executed notebook into JPEGs, where these are smaller; the figures themselves are kept as they are."""
    notebook = nbformat.read(path, 4)
    for output in (o for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})):
        png, jpeg = base64.b64decode(output.data["image/png"]), io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").save(jpeg, "JPEG", quality=88, optimize=True)
        if jpeg.tell() < len(png):
            del output.data["image/png"]
            output.data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
    nbformat.write(notebook, path)


def keep(run: Run) -> Path:
    """Copy a finished run's tables, figures, chapters and report, without its trainings, to ``results/reference``.

    Of the records those of the committed weights are kept; ``weights.json`` says which these were, and of which commit the run is.
    Raises ValueError where a chapter is not ok or of other code, or the records are of several commits or of changed files.
    """
    profile, source, target = run.profile, run.results, COMMITTED
    if bad := [chapter.name for chapter, what, _ in plan(run) if what == "run"]:
        raise ValueError(f"{source}: {', '.join(bad)}: failed, stale or never run; run ./run_all.sh --profile {profile.name} first")
    keys = weights_keys(profile, "reference", source.parent)
    rows = [line for line in (source / "records.jsonl").read_text().splitlines() if json.loads(line)["run_id"] == digest_of(keys)]
    commits = sorted({str(json.loads(line)["commit"]) for line in rows})
    if len(commits) != 1 or commits[0].endswith("+"):
        raise ValueError(f"{source / 'records.jsonl'}: made by {', '.join(commits) or 'no run'} (+: with changes that are not committed), where a reference is one clean run; "
                         f"delete it and run ./run_all.sh --profile {profile.name} in a clean checkout of one commit")
    for name in ("tables", "figures", "notebooks"):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(".*", "*.html"))
    for path in (target / "notebooks").glob("*.ipynb"):
        compress_pictures(path)
    for name in ("status.json", "verification.json"):
        shutil.copy(source / name, target / name)
    page = (source / "index.html").read_text().replace('.html">', '.ipynb">')  # only these are kept
    for figure in (target / "figures").glob("*.png"):  # it lies beside the page: a second copy would double what git holds
        page = page.replace(f"data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()}", f"figures/{figure.name}")
    (target / "index.html").write_text(page)
    (target / "weights.json").write_text(json.dumps({"commit": commits[0], "weights": keys}, indent=1))
    (target / "records.jsonl").write_text("".join(line + "\n" for line in rows))
    return target
