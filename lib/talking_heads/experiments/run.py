"""``./run_all.sh``: the chapters of a profile, from the plan to the report."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal

from talking_heads.config import OWN_PROFILES, Profile
from talking_heads.data import corpora
from talking_heads.data.sources import TALKING_LAYOUTS
from talking_heads.devices import choose
from talking_heads.experiments.benchmark import TABLE
from talking_heads.experiments.chapters import CAPTIONS, CHAPTERS, TITLE, VERDICTS, VERSIONS
from talking_heads.experiments.diffused import chapters as diffused_chapters
from talking_heads.experiments.diffused import weights as diffusion
from talking_heads.experiments.diffused.tables import PLAIN_PROFILE
from talking_heads.experiments.few_shot import chapters as few_shot_chapters
from talking_heads.experiments.few_shot.real_clips import CLIPS
from talking_heads.experiments.few_shot.weights import describe, weights_path
from talking_heads.experiments.jobs import DIFFUSION, expected_days, jobs_of, reading
from talking_heads.experiments.projection import LARGE
from talking_heads.experiments.reference import COMMITTED, PLAIN, is_plain
from talking_heads.metrics.timing import slowness
from talking_heads.nn.pretrained import (
    DLIB_FILE,
    DLIB_RECOGNISER,
    FACE_ALIGNMENT,
    OWN_WEIGHTS,
    PRETRAINED,
    path_of,
    status,
)
from talking_heads.nn.weight_files import load_metadata
from talking_heads.workbook import runner
from talking_heads.workbook.cluster import ClusterCommands, make_executor, parse_options
from talking_heads.workbook.jobs import Commands
from talking_heads.workbook.report import Report, earlier_run
from talking_heads.workbook.runner import Run, Step
from talking_heads.workbook.stages import Chapter

MEASURED = ("laptop", "reference")  # profile and weights for which the chapters' minutes were measured
# environment variables whose relative paths chapters could not follow
PATHS = (OWN_PROFILES, OWN_WEIGHTS, CLIPS)
ARITHMETIC = 0.6  # the share of a chapter's time that is arithmetic
OF_PAPER_METRICS = ("inception", "arcface")
NO_WEIGHTS = "no weights of Diffused Heads; python -m talking_heads train-diffusion"


@dataclass(frozen=True)
class Places:
    """Where corpora, results and notebooks lie."""

    data: Path
    results: Path
    notebooks: Path = Path("notebooks")


def resolve_weights(profile: Profile, weights: str | None) -> str:
    """The kind of weights: "reference" or "scratch". Raises ValueError where a profile has no reference
    weights.
    """
    available = profile.few_shot.trainings.reference_weights
    weights = weights or ("reference" if available else "scratch")
    if weights == "reference" and not available:
        raise ValueError(f"profile {profile.name} has no reference weights; use --weights scratch")
    return weights


def describe_weights(profile: Profile, weights: str, results: Path) -> str:
    """The provenance of all of a profile's weights."""
    lines = []
    for variant in profile.few_shot.trainings.variants:
        try:
            path = weights_path(profile, variant, weights, results)
        except FileNotFoundError:
            lines.append(f"{variant} weights: not there")
        else:
            lines.append(describe(load_metadata(path)))
    if diffusion.has_weights(profile, weights, results):
        metadata = load_metadata(diffusion.weights_path(profile, weights, results))
        lines.append(f"Diffused Heads: profile {metadata['profile']}, {metadata['step']:,} steps")
    kind = "Weights trained from nothing in this run"
    if weights == "reference":
        kind = "Committed reference weights"
    return f"{kind}. {'; '.join(lines)}."


def chapters_of(profile: Profile) -> tuple[Chapter, ...]:
    """The chapters of a profile: those that it names, of both systems, or of the one that its corpus is for.

    Ablations and claims on the plain corpus are read by the profiles of the diverse one.
    """
    if profile.protocol.chapters:
        return tuple(c for c in CHAPTERS if c.name[:2] in profile.protocol.chapters)
    if is_plain(profile):
        return tuple(c for c in diffused_chapters.CHAPTERS if c.name < "24")
    if profile.data.layout in TALKING_LAYOUTS:
        return diffused_chapters.CHAPTERS
    return few_shot_chapters.CHAPTERS if profile.protocol.jobs else CHAPTERS


def make_run(
    profile: Profile,
    weights: str,
    device: str,
    places: Places,
    jobs: int | None = None,
    ranks: int | None = None,
) -> Run:
    """The run of a profile, two chapters at once on a CPU and one on a GPU by default.

    ``ranks`` is the number of processes of a training that is a job.

    Raises ValueError where the notebooks are not there.
    """
    notebooks, results = places.notebooks, places.results / profile.name
    if not notebooks.is_dir():
        raise ValueError(f"{notebooks}: no such folder; run from the top of the checkout")
    section, inputs = profile.few_shot.trainings, []
    chosen = choose(device)
    work = jobs_of(profile, weights, places.data, device, ranks)
    trains = weights == "scratch" and profile.diffused.protocol.chapter_trains
    trains = trains or any(job.name == DIFFUSION for job in work)
    usable = trains or diffusion.has_weights(profile, weights, places.results)
    offered = chapters_of(profile)
    chapters = tuple(chapter for chapter in offered if usable or not chapter.diffusion)
    environment = {name: str(Path(os.environ[name]).resolve()) for name in PATHS if os.environ.get(name)}
    inputs_of: dict[str, tuple[Path, ...]] = {}
    if weights == "reference":
        if usable:
            paths = diffusion.available(profile, weights, places.results)
            inputs_of = {chapter.name: paths for chapter in chapters if chapter.diffusion}
        stems = [COMMITTED / section.reference_part / "weights" / variant for variant in section.variants]
        inputs = [stem.with_suffix(ending) for stem in stems for ending in (".safetensors", ".json")]
    elif section.reference_weights:  # nothing that was committed, not even the judges
        environment["TALKING_HEADS_OWN_JUDGES"] = str((results / "runs" / "judges").resolve())
    sources = [
        (diffused_chapters.REFERENCE_TABLES, (COMMITTED,)),
        (diffused_chapters.PLAIN_TABLES, (COMMITTED / PLAIN, places.results / PLAIN_PROFILE)),
    ]
    for tables, folders in sources:
        for name, found in tables.items():
            read = [folder / "tables" / f"{table}.csv" for folder in folders for table in found]
            inputs_of[name] = (*inputs_of.get(name, ()), *read)
    parameters = {
        "profile": profile.name,
        "weights": weights,
        "device": str(chosen),
        "data": os.path.relpath(places.data, notebooks),
        "results": os.path.relpath(places.results, notebooks),
    }
    return Run(
        profile,
        parameters,
        notebooks,
        results,
        reading(chapters, work, weights),
        VERSIONS,
        tuple(inputs),
        inputs_of,
        # procedural speakers are measured without the networks of packages
        tuple(
            n for n, f in PRETRAINED.items() if (profile.data.real or not f.package) and path_of(n).exists()
        ),
        environment,
        jobs or (2 if chosen.type == "cpu" else 1),
        work,
        Commands(
            ("--data", str(places.data.resolve()), "--results", str(places.results.resolve())), environment
        ),
    )


def cluster_commands(commands: Commands, options: "Options", folder: Path) -> ClusterCommands:
    """Commands that a cluster executes. Raises ValueError for options that it does not have."""
    site = parse_options(options.cluster_options)
    cluster: Literal["slurm", "local"] = "slurm" if options.cluster == "slurm" else "local"
    logs = folder / "cluster"
    make_executor(cluster, logs, site)  # raises before anything is run
    return ClusterCommands(
        commands.options, commands.environment, cluster=cluster, site=site, shards=options.shards, folder=logs
    )


def left_out(run: Run) -> list[str]:
    """The names of the chapters that a run does without, for want of weights."""
    names = {chapter.name for chapter in run.chapters}
    offered = chapters_of(run.profile)
    return [chapter.name for chapter in offered if chapter.diffusion and chapter.name not in names]


@dataclass(frozen=True)
class Options:
    """What of a profile is run, and how."""

    only: list[str] | None = None
    jobs: int | None = None
    ranks: int | None = None
    device: str = "auto"
    weights: str | None = None
    rerun: bool = False
    dry_run: bool = False
    cluster: str | None = None  # "slurm" or "local"; this machine's cores and GPUs by default
    shards: int = 4
    cluster_options: str = ""


def run_profile(profile: Profile, options: Options, places: Places) -> int:
    """Plan, execute, report; 0 if every chapter is ok. Raises ValueError for what does not exist."""
    weights = resolve_weights(profile, options.weights)
    run = make_run(profile, weights, options.device, places, options.jobs, options.ranks)
    if options.cluster:
        run.commands = cluster_commands(run.commands, options, run.results)
    words = set(options.only or ())
    if named := [name for name in left_out(run) if {name, name.split("_")[0]} & words]:
        raise ValueError(f"{', '.join(named)}: {NO_WEIGHTS}")
    steps = runner.plan(run, options.only, options.rerun)
    _print_plan(run, weights, steps)
    if options.dry_run:
        print_missing(profile, weights, places)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    report_line = partial(print, flush=True)
    outcomes = runner.run_chapters(run, options.only, report_line, options.rerun)
    described = describe_weights(profile, weights, places.results)
    report = Report(TITLE, CHAPTERS, CAPTIONS, described, VERDICTS)
    page = report.write(profile, run.results, run.parameters["device"])
    table = run.results / "tables" / "table1.md"
    if table.exists():
        print(f"\n{earlier_run('05_comparison', outcomes)}{table.read_text(encoding='utf-8')}")
    failed = [step.stage.name for step in steps if outcomes[step.stage.name].status == "failed"]
    if failed:
        print(f"Failed: {', '.join(failed)}")
    else:
        some = options.only or left_out(run)
        print(f"{'These' if some else 'All'} chapters are ok.")
    print(f"Report: {page}")
    return 1 if failed else 0


def _print_plan(run: Run, weights: str, steps: Sequence[Step]) -> None:
    profile, device = run.profile, choose(run.parameters["device"])
    print(f"Profile {profile.name}: {profile.description}.")
    print(f"Device {device}; weights: {weights}. Results go to {run.results}.")
    measured, factor = (profile.name, weights) == MEASURED, 1.0
    if measured and device.type == "cpu":
        factor = 1 - ARITHMETIC + ARITHMETIC * slowness(device)
    expected = expected_days(profile, run.results.parent)
    for stage, due, _ in steps:
        minutes, cost = stage.minutes * factor, ""
        if measured and due:
            cost = f"about {minutes:.{0 if minutes >= 10 else 1}f} min"
        elif due and (days := expected.get(stage.name)):
            cost = f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} h"
        print(f"  {stage.name:28}{'run' if due else 'ok already':12}{cost:14}{stage.description}")
    for name in left_out(run):
        print(f"  {name:28}left out    {NO_WEIGHTS}")
    if not measured:
        if expected:
            print(
                f"  days and hours are of {run.results / 'tables' / TABLE}.md: trainings on one such "
                "device, preparing without a detector, evaluating by the fine-tuning of one method"
            )
            return
        print("  the times of this profile were not measured; progress lines show the time left")
        if profile.name in LARGE:
            command = f"python -m talking_heads benchmark --profile {profile.name}"
            print(f"  {command} projects the days of its jobs")
        return
    total = factor * sum(step.stage.minutes for step in steps if step.due)
    where = "on two cores; less with this GPU"
    if device.type == "cpu":
        where = f"on this machine ({factor:.1f} times as long as on two cores that multiply bf16)"
    print(f"  together about {total:.0f} minutes {where}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def print_missing(profile: Profile, weights: str, places: Places) -> None:
    """Print what a run would have to render or train, and what it cannot have."""
    folder = corpora.folder(profile, places.data)
    prepared = folder / "prepared"
    state = "prepared" if (prepared / "manifest.jsonl").exists() else "to be prepared"
    print(f"  corpus: {state} ({prepared})")
    if profile.data.real and not (folder / "videos").is_dir():
        print(f"  missing: your videos at {folder / 'videos'}")
    print(f"  {describe_weights(profile, weights, places.results)}")
    needed = {*profile.few_shot.losses.extractors, *OF_PAPER_METRICS}
    if profile.data.real:
        needed.update((DLIB_FILE, DLIB_RECOGNISER))
        if status(DLIB_FILE) != "here":  # for videos without landmarks beside them
            needed.update(FACE_ALIGNMENT)
    for name, network in PRETRAINED.items():
        if name in needed and status(name) != "here":
            command = network.url if network.package else f"python -m talking_heads weights fetch {name}"
            print(f"  {status(name)}: {network.file} for {network.used_for}; {command}")
