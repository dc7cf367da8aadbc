"""``./run_all.sh``: the chapters of a profile, from the plan to the report."""

import os
import signal
from pathlib import Path
from types import FrameType

from .. import profiles
from ..corpus import build
from ..devices import choose, cores
from ..evaluation.timing import slowness
from ..profiles import Profile
from ..tensors import load_weights
from ..weights import PRETRAINED, path_of, status
from . import reference, report, runner


def resolve_weights(profile: Profile, weights: str | None) -> str:
    """"reference" or "scratch". Raises ValueError where a profile has no reference weights to use."""
    weights = weights or ("reference" if profile.reference_weights else "scratch")
    if weights == "reference" and not profile.reference_weights:
        raise ValueError(f"profile {profile.name} has no reference weights; use --weights scratch")
    return weights


def describe_weights(profile: Profile, weights: str, results: Path) -> str:
    """What the tables are about, in words."""
    said = []
    for variant in profile.variants:
        try:
            said.append(reference.describe(load_weights(reference.weights_path(profile, variant, weights, results))[1]))
        except FileNotFoundError:
            said.append(f"{variant} weights: not there")
    return f"{'Committed reference weights' if weights == 'reference' else 'Weights trained from nothing in this run'}. " + "; ".join(said) + "."


def the_run(profile: Profile, weights: str, device: str, data: Path, results: Path, notebooks: Path, jobs: int = 1) -> runner.Run:
    """What a run of a profile is about. Raises ValueError where the notebooks are not there."""
    if not notebooks.is_dir():
        raise ValueError(f"{notebooks}: no such folder; run from the top of the checkout")
    relative = lambda p: os.path.relpath(p, notebooks)
    files = [reference.COMMITTED / "weights" / f"{v}.{kind}" for v in profile.variants for kind in ("safetensors", "json")]
    inputs = tuple(files) if weights == "reference" else ()
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // jobs))}
    if weights == "scratch" and profile.reference_weights:  # nothing that was committed, the judges neither
        environment["TALKING_HEADS_OWN_JUDGES"] = str((results / profile.name / "runs" / "judges").resolve())
    return runner.Run(profile, {"profile": profile.name, "weights": weights, "device": str(choose(device)), "data": relative(data), "results": relative(results)},
                      notebooks, results / profile.name, inputs, fetched=tuple(n for n in PRETRAINED if path_of(n).exists()), environment=environment)


def run_matrix(name: str, only: list[str] | None, jobs: int, dry_run: bool, device: str, weights: str | None,
               data: Path, results: Path, notebooks: Path) -> int:
    """Plan, execute, report; 0 if every chapter is ok. Raises ValueError for what does not exist."""
    profile = profiles.load(name)
    weights = resolve_weights(profile, weights)
    if jobs < 1:
        raise ValueError(f"--jobs {jobs}: at least one chapter at a time")
    run = the_run(profile, weights, device, data, results, notebooks, jobs)
    steps = runner.plan(run, only)
    print(f"Profile {name}: {profile.about}.\nDevice {run.parameters['device']}; weights: {weights}. Results go to {results / name}.")
    known = name == "laptop" and weights == "reference"  # what the chapters' minutes were measured for
    where = choose(run.parameters["device"])
    slower = 0.4 + 0.6 * slowness(where) if known and where.type == "cpu" else 1.0  # not all of a chapter is arithmetic
    for chapter, what, _ in steps:
        minutes = chapter.minutes * slower
        cost = f"about {minutes:.{0 if minutes >= 10 else 1}f} min" if known and what == "run" else ""
        print(f"  {chapter.name:28}{what:12}{cost:14}{chapter.about}")
    if known:
        here = "on two cores; less with this GPU" if where.type != "cpu" else f"on this machine ({slower:.1f} times as long as on two cores that multiply bf16)"
        print(f"  together about {slower * sum(c.minutes for c, w, _ in steps if w == 'run'):.0f} minutes {here}")
    else:
        print("  these minutes were not measured; progress lines say how long is left")
    if dry_run:
        say_missing(profile, weights, data, results)
        return 0
    signal.signal(signal.SIGTERM, interrupt)
    outcomes = runner.run_chapters(run, only, jobs, say=lambda line: print(line, flush=True))
    page = report.write_report(profile, results / name, describe_weights(profile, weights, results))
    table = results / name / "tables" / "table1.md"
    if table.exists():
        print(f"\n{report.earlier('05_comparison', outcomes)}{table.read_text()}")
    failed = [c.name for c, _, _ in steps if outcomes[c.name].status == "failed"]
    print(f"Failed: {', '.join(failed)}" if failed else f"{'These' if only else 'All'} chapters are ok.")
    print(f"Report: {page}")
    return 1 if failed else 0


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def say_missing(profile: Profile, weights: str, data: Path, results: Path) -> None:
    """What a run would have to make or cannot have."""
    prepared = build.folder(profile, data) / "prepared" / "manifest.jsonl"
    print(f"  corpus: {'prepared' if prepared.exists() else 'to be made'} ({prepared.parent})")
    if profile.corpus == "videos" and not (build.folder(profile, data) / "videos").is_dir():
        print(f"  missing: your videos at {build.folder(profile, data) / 'videos'}")
    print(f"  {describe_weights(profile, weights, results)}")
    for name, one in PRETRAINED.items():
        needed = name in profile.extractors or name in ("inception", "arcface")
        if needed and status(name) != "here":
            print(f"  {status(name)}: {one.file} for {one.used_for}; python -m talking_heads weights fetch {name}")
