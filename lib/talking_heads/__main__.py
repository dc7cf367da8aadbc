"""Command line: ``python -m talking_heads COMMAND``; every command explains itself with --help."""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from talking_heads import config
from talking_heads.config import VARIANTS
from talking_heads.files import Interrupted


def number(kind: type, low: float, what: str, high: float = math.inf) -> Callable[[str], float]:
    """A converter of an option's text that refuses what is below ``low``, above ``high`` or no number."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return convert


MINUTES = number(float, 0, "a number of minutes")
COUNT = number(int, 1, "a whole number of at least 1")
NATURAL = number(int, 0, "a whole number of at least 0")
WEIGHTS, SYSTEMS, BASELINES = ("reference", "scratch"), ("few-shot", "diffused"), ("sda", "landmarks")
EXTRAS = ("distilled", "control")  # trainings that begin with the denoising network
AMOUNT = number(float, 0, "a number of at least 0")


def sizes(args: argparse.Namespace) -> None:
    from talking_heads.experiments.diffused import tables as diffused_tables
    from talking_heads.experiments.few_shot import tables

    profile = config.load(args.profile)
    counts = tables.parameter_counts(profile) | diffused_tables.parameter_counts(profile)
    if args.json:
        print(json.dumps(counts))
        return
    for name, count in counts.items():
        print(f"{name:24}{count:>12,}")


def judges(args: argparse.Namespace) -> None:
    from talking_heads.judges.training import train_judges

    train_judges(args.data / "pools", args.only, args.minutes)


def meta_learn(args: argparse.Namespace) -> int:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot import trainings
    from talking_heads.few_shot.meta_learning import ABLATED
    from talking_heads.training import distributed, launch, loop

    profile = config.load(args.profile)
    if ranks := launch.rank_count(args.ranks, args.device):
        trainings.training_data(profile, args.data, choose(args.device))  # what is missing, once for all
        return launch.run_with_torchrun(ranks, args.words)
    command = f"python -m talking_heads meta-learn --profile {profile.name} --variant {args.variant}"
    with distributed.process_group(choose(args.device)) as device:
        data = trainings.training_data(profile, args.data, device)
        runs = trainings.runs_folder(profile, args.results)
        run = trainings.TrainingRun(profile, args.variant, data, runs, device, command, args.workers)
        if run.finished:
            print(f"{args.variant}: at its end already, weights in {run.exported}")
            return 0
        with run.recording():
            loop.train(run.learner, run.folder, seconds=args.minutes * 60, watch=run.watch)
        run.export()
    if "collapsed" in run.metadata and args.variant not in ABLATED:
        raise RuntimeError(f"the training of {args.variant} has collapsed: {run.metadata['collapsed']}")
    return 0


def audio_encoder(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.diffused.audio_pretraining import encoder_path, ensure_encoder

    section = config.load(args.profile).diffused.audio_encoder
    command = f"python -m talking_heads audio-encoder --profile {args.profile}"
    runs, path = args.results / args.profile / "runs", encoder_path(section)
    result = ensure_encoder(section, runs, command, choose(args.device), args.again)
    for name, value in result.items():
        print(f"{name}: {value}")
    print(f"weights in {path}" if result else f"trained already, weights in {path}; --again trains it anew")


def train_talking(args: argparse.Namespace) -> int:
    from talking_heads.devices import choose
    from talking_heads.diffused.audio_pretraining import load_reader
    from talking_heads.experiments.diffused.clips import clip_data
    from talking_heads.experiments.diffused.trainings import RUNS, WATCH_EVERY
    from talking_heads.experiments.diffused.weights import finished_weights, runs_folder
    from talking_heads.training import distributed, launch, loop

    profile = config.load(args.profile)
    load_reader(profile.diffused.audio_encoder)  # raises before hours of preparing, as do the next ones
    if args.method in EXTRAS:
        learner: Any = RUNS[args.method].kind
        learner.check(profile)
        start = finished_weights(profile, args.weights, args.results)
    if ranks := launch.rank_count(args.ranks, args.device):
        clip_data(profile, args.data, choose(args.device))  # what is missing, once for all
        return launch.run_with_torchrun(ranks, args.words)
    with distributed.process_group(choose(args.device)) as device:
        runs = runs_folder(profile, args.results)
        run = RUNS[args.method](profile, clip_data(profile, args.data, device), runs, device, args.workers)
        if args.method in EXTRAS:
            run.learner.start_from(start, profile.diffused)
        if run.finished:
            print(f"{run.name}: at its end already, weights in {run.exported}")
            return 0
        with run.recording():
            seconds = args.minutes * 60
            loop.train(run.learner, run.folder, seconds=seconds, watch=run.watch, watch_every=WATCH_EVERY)
        run.export()
    return 0


def search(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.search import search as search_sampling
    from talking_heads.experiments.few_shot.search import pretraining
    from talking_heads.experiments.few_shot.search import search as run_search

    profile, device = config.load(args.profile), choose(args.device)
    if args.method == "sampling":
        search_sampling(profile, args.weights, args.data, args.results, device)
    elif args.pretraining:
        pretraining(profile, args.pretraining, args.shots, args.data, args.results, device)
    else:
        run_search(profile, args.method, args.shots, args.data, args.results, device)


def ablate(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.ablations import ablate as run_ablations

    profile = config.load(args.profile)
    only = args.only or ()
    run_ablations(profile, args.weights, args.data, args.results, choose(args.device), only)
    print(f"{args.results / profile.name / 'tables/diffused_ablations.md'}")


def length(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.length import length as measure_length

    profile = config.load(args.profile)
    measure_length(profile, args.weights, args.data, args.results, choose(args.device))
    print(f"{args.results / profile.name / 'tables/diffused_length.md'}")


def smoke_test(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.smoke_test import smoke_test as run_diffused
    from talking_heads.experiments.few_shot.smoke_test import smoke_test as run_few_shot

    run_smoke_test = run_diffused if args.system == "diffused" else run_few_shot
    with tempfile.TemporaryDirectory() as folder:
        stages = run_smoke_test(config.load(args.profile), args.clips, Path(folder), choose(args.device))
    if args.json:
        print(stages.to_json(orient="records"))


def prepare(args: argparse.Namespace) -> None:
    from talking_heads.data import corpora
    from talking_heads.data.planning import Settings
    from talking_heads.data.prepare import merge
    from talking_heads.data.prepare import prepare as prepare_corpus
    from talking_heads.data.sources import TALKING_LAYOUTS
    from talking_heads.devices import choose
    from talking_heads.shards import Shard

    device, shard = str(choose(args.device)), Shard.parse(args.shard) if args.shard else None
    if args.profile:
        if args.source or args.talking or args.frames_per_video is not None:
            raise ValueError("--profile says what is prepared, and how: leave out the source and its options")
        profile = config.load(args.profile)
        out = corpora.ensure(
            profile, args.data, device, shard=shard, merging=args.merge, workers=args.workers
        )
        print(f"prepared in {out}")
        return
    if args.source is None or args.out is None:
        raise ValueError("prepare needs a source and a folder for the corpus, or --profile")
    talking = args.talking or ("similarity" if args.layout in TALKING_LAYOUTS else "")
    most = args.frames_per_video if args.frames_per_video is not None else 0 if talking else 96
    settings = Settings(args.size, most, talking)
    if args.merge:
        lines = merge(args.source, args.out, settings, args.layout)
    else:
        lines = prepare_corpus(
            args.source, args.out, settings, args.layout, device, args.workers, shard=shard
        )
    kept = sum(1 for line in lines if line["frames"])
    print(f"{kept} of {len(lines)} sources prepared in {args.out}")
    for line in lines:
        if line["note"]:
            print(f"  {line['source']}: {line['note']}".replace("\n", " ").replace("\r", " "))


def evaluate(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.evaluation import evaluate as evaluate_diffused
    from talking_heads.experiments.few_shot.evaluation import evaluate as evaluate_few_shot
    from talking_heads.experiments.run import resolve_weights
    from talking_heads.shards import Shard

    profile, shard = config.load(args.profile), Shard.parse(args.shard) if args.shard else None
    weights = resolve_weights(profile, args.weights)
    run_evaluation = evaluate_diffused if args.system == "diffused" else evaluate_few_shot
    run_evaluation(profile, weights, args.data, args.results, choose(args.device), shard)


def score(args: argparse.Namespace) -> None:
    from talking_heads.data.detection import Detector
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused import score as scoring
    from talking_heads.nn.pretrained import FACE_ALIGNMENT, path_of

    device = choose(args.device)
    detects = not args.procedural and all(path_of(name).exists() for name in FACE_ALIGNMENT)
    scorer = scoring.Scorer(args.procedural, Detector(device) if detects else None, device)
    method = args.method or args.generated.resolve().name
    table = scoring.score(args.generated, args.reference, args.out, method, scorer, args.layout)
    print(scoring.summary(table).round(4).to_string(index=False))
    identities = table["identity"].nunique()
    print(f"{len(table)} clips of {identities} identities; a row for each clip in {args.out}")
    if identities == len(table) > 1:
        print("every clip counts as an identity; if some are of one person, put them into one folder")
    if not (detects or table[scoring.FACES].any()):
        print(
            "no landmarks, so lips and eyes are not measured: put them beside the videos, or fetch the "
            f"detector: python -m talking_heads weights fetch {' '.join(FACE_ALIGNMENT)}"
        )


def observe(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot.evaluation import Evaluation

    profile = config.load(args.profile)
    places = args.weights, args.data, args.results, choose(args.device)
    rates = Evaluation.of_profile(profile, *places).observer_rates()
    print(f"{len(rates)} rates of methods and identities")


def measure(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot.timing import measure_profile

    profile = config.load(args.profile)
    measure_profile(profile, args.results / profile.name / "runs", choose(args.device))


def stability(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot.stability import stability as train_shortly

    table, _ = train_shortly(config.load(args.profile), args.data, args.results, choose(args.device))
    print(table.to_string(index=False))


def benchmark(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose, prefer_speed
    from talking_heads.experiments.benchmark import benchmark as run_benchmark

    device = choose(args.device)
    prefer_speed(device)
    run_benchmark(config.load(args.profile), args.results, device, args.quick)


def weights(args: argparse.Namespace) -> None:
    from talking_heads.nn import pretrained

    for name in args.names or pretrained.PRETRAINED:
        path = pretrained.path_of(name)
        if args.action == "fetch":
            print(f"{name}: {pretrained.fetch(name)}")
        elif args.action == "verify" and path.exists():
            print(f"{name}: sha256 {pretrained.verify(name)}")
        else:
            network = pretrained.PRETRAINED[name]
            state = f"{name:10} {pretrained.status(name):8} {network.file}; {network.used_for}"
            print(f"{state}; licence: {network.licence}\n{'':20}{path}\n{'':20}{network.url}")


def animate(args: argparse.Namespace) -> None:
    from talking_heads.animation.animate import Request
    from talking_heads.animation.animate import animate as make_video
    from talking_heads.experiments.few_shot.weights import load_networks, main_variant

    profile = config.load(args.profile)
    weights = "reference" if profile.few_shot.trainings.reference_weights else "scratch"
    request = Request(
        photos=args.photo or [],
        head=args.head,
        driver=args.driver,
        out=args.out,
        keep=args.keep,
        shots=args.shots,
        person=args.person,
        kind=args.kind,
        raw=args.raw,
        mark=not args.no_mark,
    )
    load = partial(load_networks, profile, main_variant(profile), weights, args.results)
    print(make_video(request, profile, load, args.device))


def speak(args: argparse.Namespace) -> None:
    from talking_heads.animation import live
    from talking_heads.animation import speak as speaking
    from talking_heads.experiments.diffused.weights import load_model as load

    controls = {"head_motion": args.head_motion, "blink_rate": args.blink_rate}
    control = any(value is not None for value in controls.values())
    if args.fast and (args.steps or args.sampler or control):
        raise ValueError("--fast has its own steps and sampler, and no controls: leave out their options")
    options = {"steps": args.steps, "guidance": args.guidance, "sampler": args.sampler, **controls}
    options |= {"distilled": args.fast or None, "control": control or None}
    changes = {f"diffused.sampling.{name}": value for name, value in options.items() if value is not None}
    profile = config.load(args.profile, changes)

    def load_model(device):
        model = load(profile, args.weights, args.results, device)
        return model.generator, model.encoder, model.metadata

    request = speaking.Request(
        sound=args.sound,
        out=args.out,
        photo=args.photo,
        face=args.face,
        keep=args.keep,
        person=args.person,
        kind=args.kind,
        seed=args.seed,
        mark=not args.no_mark,
    )
    if args.live:
        written = live.speak_live(request, profile, load_model, args.device, sys.stdin.buffer)
    else:
        written = speaking.speak(request, profile, load_model, args.device)
    print(f"written: {written}")


def face_shape(args: argparse.Namespace) -> None:
    from talking_heads.data import corpora
    from talking_heads.experiments.few_shot.trainings import fit_face_shape

    profile = config.load(args.profile)
    corpora.ensure(profile, args.data)
    fit_face_shape(profile, args.data)


def run(args: argparse.Namespace) -> int:
    from talking_heads.experiments.run import Options, Places, run_profile

    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    places = Places(args.data, args.results, args.notebooks)
    return run_profile(config.load(args.profile), options, places)


def keep(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments import reference
    from talking_heads.experiments.diffused import weights as diffused
    from talking_heads.experiments.diffused.keep import keep as keep_diffusion
    from talking_heads.experiments.diffused.keep import keep_plain_tables, keep_weights
    from talking_heads.experiments.few_shot import keep as few_shot
    from talking_heads.experiments.run import Places, make_run

    profile = config.load(args.profile)
    runs = args.results / profile.name / "runs" / "reference"
    if args.variant == "diffusion":
        criteria = keep_diffusion(profile, args.data, args.results, choose(args.device))
        print(criteria.round(3).to_string(index=False))
    elif args.variant in (*EXTRAS, *BASELINES):
        print(f"kept as {keep_weights(profile, args.variant, args.results)}")
    elif args.variant:
        command = f"python -m talking_heads meta-learn --variant {args.variant}"
        print(f"kept as {reference.keep_training(args.variant, runs / f'meta-{args.variant}', command)}")
    elif reference.is_plain(profile):
        print(f"kept in {keep_plain_tables(profile, args.results)}")
    else:
        reference_run = make_run(profile, "reference", args.device, Places(args.data, args.results))
        more = {}
        if diffused.has_weights(profile, "reference", args.results):
            more["diffusion"] = diffused.run_id(profile, "reference", args.results)
        print(f"kept in {few_shot.keep(reference_run, more)}")


class Subcommands:
    """The commands of a parser, each with a parser of its options."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.subparsers = parser.add_subparsers(dest="command", required=True)
        self.profiles = ", ".join(config.names())  # folders are read once for all commands

    def add(
        self,
        function: Callable[[argparse.Namespace], int | None],
        name: str,
        text: str,
        profile: str = "",
        device: bool = True,
        resumes: bool = False,
    ) -> argparse.ArgumentParser:
        """A command with ``--profile``, where it has a default one, and ``--device``."""
        command = self.subparsers.add_parser(name, help=text)
        if profile:
            text = f"one of {self.profiles}; {profile} by default"
            command.add_argument("--profile", default=profile, help=text)
        if device:
            command.add_argument("--device", default="auto", help="auto, cpu or cuda")
        interrupted = "interrupted; run the same command again"
        if resumes:
            interrupted = "interrupted; what is finished is kept, and the same command goes on from there"
        command.set_defaults(run=function, interrupted=interrupted)
        return command


def add_running(commands: Subcommands) -> None:
    """The commands that execute, measure and keep."""
    c = commands.add(
        run, "run", "execute the chapters (./run_all.sh does this)", profile="laptop", resumes=True
    )
    c.add_argument(
        "--only", nargs="+", metavar="CHAPTER", help="by name or number; what they need comes along"
    )
    c.add_argument("--jobs", type=COUNT, help="chapters at once; by default two on a CPU, one on a GPU")
    add_ranks(c)
    c.add_argument("--dry-run", action="store_true", help="print what would run and what is missing")
    c.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="committed weights, or train everything; the profile's default",
    )
    c.add_argument("--rerun", action="store_true", help="execute chapters even if they are ok already")
    c.add_argument("--notebooks", type=Path, default=Path("notebooks"))
    c.add_argument("--cluster", choices=["slurm", "local"], help="where jobs run; here by default")
    c.add_argument("--shards", type=COUNT, default=4, help="into which a cluster's jobs are divided")
    c.add_argument(
        "--cluster-options", default="", metavar="NAME=VALUE,...", help="partition=gpu,gpus_per_node=8, ..."
    )

    text = "generate the frames and clips that the tables measure"
    c = commands.add(evaluate, "evaluate", text, profile="laptop", resumes=True)
    c.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0])
    c.add_argument("--weights", choices=WEIGHTS, help="the profile's default")
    c.add_argument("--shard", metavar="I/N", help="this part alone, from 0/N to N-1/N")

    text = "compare talking videos of any method with references, by all metrics of Diffused Heads"
    c = commands.add(score, "score", text, resumes=True)
    c.add_argument("generated", type=Path, help="a folder of videos, named as their references")
    c.add_argument("reference", type=Path, help="a folder of true videos with sound")
    c.add_argument("--out", type=Path, required=True, help="the table to write, a row for each clip: .csv")
    c.add_argument("--method", help="its name in tables; that of the folder by default")
    c.add_argument("--layout", choices=["folder", "crema", "lrw"], default="folder", help="of the references")
    c.add_argument(
        "--procedural", action="store_true", help="faces are those of procedural speakers: use the judges"
    )

    text = "train observers on the frames of Table 1, and measure how often they detect each method's fakes"
    c = commands.add(observe, "observe", text, profile="laptop-full")
    c.add_argument("--weights", choices=WEIGHTS, help="the profile's default")

    commands.add(measure, "measure", "measure the times of Table 2", profile="laptop", resumes=True)
    text = "short trainings with and without L_FM (section 3.2)"
    commands.add(stability, "stability", text, profile="laptop-full", resumes=True)

    text = "measure loading, training, heads and store here, and project the days of a training"
    c = commands.add(benchmark, "benchmark", text, profile="voxceleb2-ft")
    c.add_argument("--quick", action="store_true", help="in minutes: few repetitions")

    text = "go through a profile once, at its sizes, with two steps of training: time and memory"
    c = commands.add(smoke_test, "smoke-test", text, profile="voxceleb1")
    c.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0])
    c.add_argument("--clips", type=Path, help="a folder of videos; rendered speakers by default")
    c.add_argument("--json", action="store_true")

    text = "parameters of a profile's networks, counted from the built modules"
    c = commands.add(sizes, "sizes", text, profile="laptop", device=False)
    c.add_argument("--json", action="store_true")

    text = "copy a finished run, or a finished training's weights, to results/reference"
    c = commands.add(keep, "keep", text, profile="laptop-full", resumes=True)
    c.add_argument(
        "--variant",
        choices=[*VARIANTS, "diffusion", *EXTRAS, *BASELINES],
        help="keep the weights of this training instead",
    )


def add_preparing(commands: Subcommands) -> None:
    """The command that makes corpora."""
    text = "videos or photographs to a corpus: landmarks, crops, manifest"
    c = commands.add(prepare, "prepare", text, resumes=True)
    c.add_argument("source", type=Path, nargs="?", help="a folder, or one file")
    c.add_argument("out", type=Path, nargs="?", help="a folder for the corpus, beside the source")
    c.add_argument("--profile", help="the corpus of this profile, as it says, in place of a source")
    c.add_argument(
        "--size",
        type=number(int, 16, "a whole number of pixels from 16 to 2048", 2048),
        default=64,
        help="pixels of the square crop",
    )
    c.add_argument("--layout", choices=["folder", "voxceleb1", "voxceleb2", "crema", "lrw"], default="folder")
    c.add_argument(
        "--talking",
        choices=["square", "similarity"],
        help="consecutive frames at 25 a second with their sound: in one crop, or each aligned to a mean "
        "face, as --layout crema and lrw do by default",
    )
    c.add_argument(
        "--frames-per-video",
        type=NATURAL,
        help="96 by default, evenly spaced over all its clips; of a talking clip the first ones, by default "
        "all; 0 keeps all",
    )
    c.add_argument("--workers", type=COUNT)
    shards = c.add_mutually_exclusive_group()
    shards.add_argument(
        "--shard", metavar="I/N", help="this part alone, from 0/N to N-1/N, beside other machines"
    )
    shards.add_argument("--merge", action="store_true", help="join the shards, which are all prepared")


def add_training(commands: Subcommands) -> None:
    """The commands that train, search and fit, and that of pretrained networks."""
    c = commands.add(
        weights,
        "weights",
        "pretrained networks: which are there, which are missing, and their licences",
        device=False,
    )
    c.add_argument("action", choices=["list", "fetch", "verify"])
    c.add_argument("names", nargs="*")

    text = "train the embedded judges again and write their weights into the package"
    c = commands.add(judges, "judges", text, device=False, resumes=True)
    c.add_argument(
        "--only", nargs="+", choices=["attributes", "people", "identity", "landmarks", "lids", "gaze", "lips"]
    )
    c.add_argument("--minutes", type=MINUTES, help="for each; by default the budget of the committed ones")

    text = "train a variant, or go on with it; stop and repeat as you like"
    c = commands.add(meta_learn, "meta-learn", text, profile="laptop-full", resumes=True)
    c.add_argument("--variant", choices=VARIANTS, required=True)
    add_training_options(c)

    text = "train the denoising network, or go on; stop and repeat as you like"
    c = commands.add(train_talking, "train-diffusion", text, profile="laptop-full", resumes=True)
    c.set_defaults(method="diffusion")
    add_training_options(c)

    distil = "distil the denoising network into one that samples in fewer steps, or go on"
    control = "train layers beside the denoising network that obey head motion and blinks, or go on"
    for method, name, text in (("distilled", "distill", distil), ("control", "train-control", control)):
        c = commands.add(train_talking, name, text, profile="laptop-full", resumes=True)
        c.set_defaults(method=method)
        c.add_argument("--weights", choices=WEIGHTS, default="reference", help="of the denoising network")
        add_training_options(c)

    text = "train a method that Diffused Heads is compared with, or go on"
    c = commands.add(train_talking, "train-baseline", text, profile="laptop-full", resumes=True)
    c.add_argument(
        "--method",
        choices=BASELINES,
        required=True,
        help="SDA, a GAN (Vougioukas et al. 2019); or landmarks from sound, which drive a few-shot head",
    )
    add_training_options(c)

    text = "pretrain the audio encoder on sound alone and write it into the package"
    c = commands.add(audio_encoder, "audio-encoder", text, profile="laptop", resumes=True)
    c.add_argument("--again", action="store_true", help="train it anew, also where it is there")

    text = "choose how heads are fine-tuned, or talking heads sampled, on validation identities"
    c = commands.add(search, "search", text, profile="laptop-full", resumes=True)
    c.add_argument("--method", choices=["ours", "pix2pixhd", "sampling"], default="ours")
    c.add_argument("--weights", choices=WEIGHTS, default="reference", help="of sampling")
    c.add_argument("--shots", type=COUNT, default=8, help="T")
    c.add_argument(
        "--pretraining",
        type=COUNT,
        nargs="+",
        metavar="STEPS",
        help="of Pix2pixHD instead: compare pretrainings of these lengths",
    )

    text = "train and measure the ablations of Diffused Heads, or go on"
    c = commands.add(ablate, "ablate", text, profile="laptop-full", resumes=True)
    c.add_argument("--weights", choices=WEIGHTS, default="reference", help="that the trainings begin with")
    c.add_argument("--only", nargs="+", metavar="ABLATION", help="by name; all others stay as measured")

    text = "generate long clips with every remedy against drift, and measure how quality lasts"
    c = commands.add(length, "length", text, profile="laptop-full", resumes=True)
    c.add_argument("--weights", choices=WEIGHTS, default="reference")

    text = "fit the linear face model of landmark adaptation to a profile's identities again"
    commands.add(face_shape, "face-shape", text, profile="laptop", device=False)


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """The option of trainings in several processes."""
    text = "processes of a training; by default one for each visible GPU"
    parser.add_argument("--ranks", type=COUNT, help=text)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options of both systems' trainings."""
    parser.add_argument("--minutes", type=MINUTES, default=math.inf, help="of this slice")
    add_ranks(parser)
    parser.add_argument(
        "--workers", type=NATURAL, help="processes that load batches, for each rank; by default none on a CPU"
    )


def add_animation(commands: Subcommands) -> None:
    """The commands that make videos."""
    text = "photographs (or a clip) and a driver's clip to a moving head, with the driver's sound"
    c = commands.add(animate, "animate", text, profile="laptop")
    c.add_argument(
        "--photo",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="photographs, a folder of them, or a clip, of one person to learn from",
    )
    c.add_argument("--head", type=Path, help="a kept head instead")
    c.add_argument("--driver", type=Path, required=True, help="the clip whose movements and sound it gets")
    add_video_options(c)
    c.add_argument("--keep", type=Path, help="where to keep the head; <out>.head by default")
    c.add_argument("--shots", type=COUNT, default=8, help="frames to learn from, at most")
    c.add_argument("--person", help="the name on the head's card")
    c.add_argument(
        "--raw", action="store_true", help="the driver's landmarks as they are: neither adapted nor smoothed"
    )

    text = "a photograph and a voice to a talking head"
    c = commands.add(speak, "speak", text, profile="laptop-full", resumes=True)
    c.add_argument("--photo", type=Path, help="a photograph of one person")
    c.add_argument("--face", type=Path, help="a kept identity frame instead")
    c.add_argument("--sound", type=Path, required=True, help="any audio or video file with a voice")
    add_video_options(c)
    c.add_argument("--keep", type=Path, help="where to keep the identity frame; <out>.face by default")
    c.add_argument("--person", help="the name on the identity frame's card")
    c.add_argument(
        "--live",
        action="store_true",
        help="write frames while the sound comes in: raw 16-bit samples at 16 kHz, mono, from a file that "
        "grows or, for -, from standard input",
    )
    c.add_argument("--seed", type=NATURAL, default=0, help="another one gives other motion of the head")
    c.add_argument("--fast", action="store_true", help="sample with the distilled network, in fewer steps")
    c.add_argument("--steps", type=COUNT, help="denoising steps of a frame; the profile's by default")
    c.add_argument(
        "--guidance",
        type=AMOUNT,
        help="of the sound: above 1 the lips follow it more closely, and the mouth opens in silence",
    )
    c.add_argument("--sampler", choices=["ddpm", "ddim", "dpm_solver"], help="the profile's by default")
    c.add_argument("--head-motion", type=AMOUNT, help="speed of the head, 1 as in the training clips")
    c.add_argument("--blink-rate", type=AMOUNT, help="blinks a second")
    c.add_argument("--weights", choices=WEIGHTS, default="reference")


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """The options of a synthetic video."""
    parser.add_argument(
        "--out", type=Path, required=True, help="the video to write: .mp4, .mov, .mkv or .webm"
    )
    parser.add_argument("--kind", default="real person", help="real person, painting or procedural speaker")
    parser.add_argument(
        "--no-mark", action="store_true", help="no 'synthetic' in a corner; the metadata keeps it"
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; exits with the usage where a command or an option does not exist."""
    parser = argparse.ArgumentParser(prog="python -m talking_heads", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where corpora and rendered speakers are kept"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = Subcommands(parser)
    for add in (add_running, add_preparing, add_training, add_animation):
        add(commands)
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # the command's own usage names the options that exist
        commands.subparsers.choices[args.command].error(f"unknown arguments: {' '.join(unknown)}")
    args.words = sys.argv[1:] if argv is None else argv
    return args


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        args = arguments(argv)
    except ValueError as error:  # of the folder of your own profiles
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        if getattr(args, "profile", None):
            config.load(args.profile)  # an error of the profile is stated before seconds of imports
        return args.run(args) or 0
    except MemoryError as error:
        print(f"error: {error or 'memory ran out; close other programs'}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(
            f"error: {error}; make the environment anew with ./run_all.sh "
            "(it installs the OpenCV that needs no libGL)",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not type(error).__module__.startswith(("cv2", "av.")):
            raise
        print(f"error: OpenCV or FFmpeg failed ({' '.join(str(error).split())})", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(interrupt if isinstance(interrupt, Interrupted) else args.interrupted, file=sys.stderr)
        return interrupt.status if isinstance(interrupt, Interrupted) else 130


def program() -> None:
    """Run the command line in Python's UTF-8 mode: files are UTF-8 whatever the terminal's language is."""
    if not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "talking_heads", *sys.argv[1:]])
    sys.exit(main())


if __name__ == "__main__":
    program()
