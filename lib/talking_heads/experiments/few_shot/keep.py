"""Keeping a finished run, and finished weights, as the committed reference."""

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from talking_heads import config
from talking_heads.config import Profile
from talking_heads.experiments.few_shot import portraits
from talking_heads.experiments.few_shot.trainings import runs_folder
from talking_heads.experiments.few_shot.weights import digest_of, load_networks, weights_keys
from talking_heads.experiments.reference import COMMITTED, keep_training
from talking_heads.files import write_text
from talking_heads.workbook.keep import compress_pictures
from talking_heads.workbook.preview import write_preview
from talking_heads.workbook.runner import Run, plan

FOLDERS = ("tables", "figures", "notebooks")
PREVIEW = {  # clips of the README's picture
    "start_here.mp4": "Few-shot head: landmarks, before and after fine-tuning",
    "talking.mp4": "Diffused Heads: the true clip, and one generated from a frame and the sound",
}


def keep(run: Run, more: Mapping[str, str]) -> Path:
    """Copy a finished run's tables, figures, chapters and report, without its trainings, to
    ``results/reference``.

    Records of the committed weights are kept, ``more`` of which (run ids by name) are not of few-shot heads.
    ``weights.json`` names all of them, the commit of the run and the versions of the code. Raises ValueError
    where a chapter is not ok, or the records are of several commits or of changed files.
    """
    profile, source, target = run.profile, run.results, COMMITTED
    command = f"./run_all.sh --profile {profile.name}"
    if due := [step.stage.name for step in plan(run) if step.due]:
        raise ValueError(f"{source}: {', '.join(due)}: failed, stale or never run; run {command} first")
    keys = weights_keys(profile, "reference", source.parent)
    lines = (source / "records.jsonl").read_text(encoding="utf-8").splitlines()
    run_ids = {digest_of(keys), *more.values()}
    rows = [line for line in lines if json.loads(line)["run_id"] in run_ids]
    commits = sorted({str(json.loads(row)["commit"]) for row in rows})
    if len(commits) != 1 or commits[0].endswith("+"):
        raise ValueError(
            f"{source / 'records.jsonl'}: of {', '.join(commits) or 'no run'} (+: with changes that are not "
            "committed), where a reference is one clean run; "
            f"delete it and run {command} in a clean checkout of one commit"
        )
    for name in FOLDERS:
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(".*", "*.html"))
    for path in (target / "notebooks").glob("*.ipynb"):
        compress_pictures(path)
    if clips := {name: path for file, name in PREVIEW.items() if (path := source / "clips" / file).exists()}:
        write_preview(clips, target.parents[1] / "docs/talking_heads.gif")
    for name in ("status.json", "verification.json"):
        shutil.copy(source / name, target / name)
    write_text(target / "index.html", _page_of_links(source / "index.html", target / "figures"))
    provenance = {"commit": commits[0], "weights": {**keys, **more}, "versions": run.versions}
    write_text(target / "weights.json", json.dumps(provenance, indent=1))
    write_text(target / "records.jsonl", "".join(f"{row}\n" for row in rows))
    return target


def keep_weights(profile: Profile, variant: str, data: Path, results: Path, device: torch.device) -> Path:
    """Copy a profile's own weights of a training to its reference; returns the file.

    Beside weights that grew from those of a smaller profile stands how their heads compare with its heads.
    Raises what :func:`check_finished` does.
    """
    command = f"python -m talking_heads meta-learn --profile {profile.name} --variant {variant}"
    folder, section = runs_folder(profile, results) / f"meta-{variant}", profile.few_shot.trainings
    kept = keep_training(variant, folder, command, reference=COMMITTED / section.reference_part)
    if section.start_profile:
        nets, smaller = (
            load_networks(of_size, variant, "reference", results, device)[0]
            for of_size in (profile, config.load(section.start_profile))
        )
        table = portraits.criteria(profile, nets, smaller, data, device)
        table.to_csv(kept.with_name(f"{variant}_criteria.csv"), index=False, float_format="%.5g")
        print(table.round(4).to_string(index=False))
    return kept


def _page_of_links(report: Path, figures: Path) -> str:
    """The report with links to the figures and notebooks beside it: embedded copies would double what git
    holds.
    """
    page = report.read_text(encoding="utf-8").replace('.html">', '.ipynb">')
    for figure in figures.glob("*.png"):
        embedded = f"data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()}"
        page = page.replace(embedded, f"figures/{figure.name}")
    return page
