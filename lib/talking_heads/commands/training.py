"""The commands that train networks, and that of pretrained ones."""

import argparse
from typing import Any

from talking_heads import config
from talking_heads.commands.options import (
    BASELINES,
    EXTRAS,
    MINUTES,
    WEIGHTS,
    Subcommands,
    add_training_options,
)
from talking_heads.sections.few_shot import VARIANTS


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
            print(f"{state}; licence: {network.licence}")
            print("\n".join(f"{'':20}{place}" for place in (path, network.url, network.mirror) if place))


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
        start = trainings.start_weights(profile, args.variant, args.results)
        run = trainings.TrainingRun(profile, args.variant, data, runs, device, command, args.workers, start)
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


def face_shape(args: argparse.Namespace) -> None:
    from talking_heads.data import corpora
    from talking_heads.experiments.few_shot.trainings import fit_face_shape

    profile = config.load(args.profile)
    corpora.ensure(profile, args.data)
    fit_face_shape(profile, args.data)


def add_training(commands: Subcommands) -> None:
    """The commands that train and fit, and that of pretrained networks."""
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

    text = "fit the linear face model of landmark adaptation to a profile's identities again"
    commands.add(face_shape, "face-shape", text, profile="laptop", device=False)
