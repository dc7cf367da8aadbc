"""The commands that run chapters, evaluate, measure and keep results."""

import argparse
import json
import tempfile
from dataclasses import fields
from pathlib import Path

from talking_heads import config
from talking_heads.commands.options import (
    BASELINES,
    COUNT,
    EXTRAS,
    SYSTEMS,
    WEIGHTS,
    Subcommands,
    add_ranks,
)
from talking_heads.sections.few_shot import VARIANTS


def run(args: argparse.Namespace) -> int:
    from talking_heads.experiments.run import Options, Places, run_profile

    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    places = Places(args.data, args.results, args.notebooks)
    return run_profile(config.load(args.profile), options, places)


def evaluate(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.evaluation import confirm
    from talking_heads.experiments.diffused.evaluation import evaluate as evaluate_diffused
    from talking_heads.experiments.few_shot.evaluation import evaluate as evaluate_few_shot
    from talking_heads.experiments.run import resolve_weights
    from talking_heads.shards import Shard

    profile, shard = config.load(args.profile), Shard.parse(args.shard) if args.shard else None
    weights = resolve_weights(profile, args.weights)
    if args.confirm:
        if args.system != "diffused" or shard:
            raise ValueError("--confirm: needs --system diffused, and all clips: leave out --shard")
        criteria = confirm(profile, weights, args.data, args.results, choose(args.device))
        print(criteria.drop(columns="weights").to_string(index=False))
        return
    run_evaluation = evaluate_diffused if args.system == "diffused" else evaluate_few_shot
    run_evaluation(profile, weights, args.data, args.results, choose(args.device), shard)


def score(args: argparse.Namespace) -> None:
    from talking_heads.animation.animate import optional_detector
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused import score as scoring
    from talking_heads.experiments.diffused.clip_metrics import PER
    from talking_heads.experiments.diffused.scorer import FACES, Scorer
    from talking_heads.nn.pretrained import FACE_ALIGNMENT

    device = choose(args.device)
    detect = None if args.procedural else optional_detector(device)
    scorer = Scorer(args.procedural, detect, device)
    method = args.method or args.generated.resolve().name
    table = scoring.score(args.generated, args.reference, args.out, method, scorer, args.layout)
    print(scoring.summary(table).round(4).to_string(index=False))
    identities = table["identity"].nunique()
    print(f"{len(table)} clips of {identities} identities; a row for each clip in {args.out}")
    if identities == len(table) > 1:
        print("every clip counts as an identity; if some are of one person, put them into one folder")
    if args.procedural and PER not in table:
        print(f"the references do not state what is said: {PER} is not measured")
    if not (detect or table[FACES].any()):
        print(
            "no landmarks, so lips, eyes and optical flow are not measured: put them beside the videos, or "
            f"get a detector: python -m talking_heads weights fetch {' '.join(FACE_ALIGNMENT)}, or "
            "./run_all.sh --with faces"
        )


def observe(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot.evaluation import Evaluation

    profile = config.load(args.profile)
    places = args.weights, args.data, args.results, choose(args.device)
    rates = Evaluation.of_profile(profile, *places).observer_rates()
    print(f"{len(rates)} rates of methods and identities")


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


def measure(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot.timing_job import measure_profile

    profile = config.load(args.profile)
    measure_profile(profile, args.results / profile.name / "runs", choose(args.device))


def stability(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.few_shot.stability import stability as train_shortly

    table, _ = train_shortly(config.load(args.profile), args.data, args.results, choose(args.device))
    print(table.to_string(index=False))


def benchmark(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.benchmark import benchmark as run_benchmark

    run_benchmark(config.load(args.profile), args.results, choose(args.device), args.quick)


def smoke_test(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments.diffused.smoke_test import smoke_test as run_diffused
    from talking_heads.experiments.few_shot.smoke_test import smoke_test as run_few_shot

    run_smoke_test = run_diffused if args.system == "diffused" else run_few_shot
    with tempfile.TemporaryDirectory() as folder:
        stages = run_smoke_test(config.load(args.profile), args.clips, Path(folder), choose(args.device))
    if args.json:
        print(stages.to_json(orient="records"))


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


def keep(args: argparse.Namespace) -> None:
    from talking_heads.devices import choose
    from talking_heads.experiments import reference
    from talking_heads.experiments.diffused import weights as diffused
    from talking_heads.experiments.diffused.keep import keep as keep_diffusion
    from talking_heads.experiments.diffused.keep import keep_plain_tables, keep_weights
    from talking_heads.experiments.few_shot import keep as few_shot
    from talking_heads.experiments.run import Places, make_run

    profile, device = config.load(args.profile), choose(args.device)
    if args.variant == "diffusion":
        criteria = keep_diffusion(profile, args.data, args.results, device)
        print(criteria.round(3).to_string(index=False))
    elif args.variant in (*EXTRAS, *BASELINES):
        print(f"kept as {keep_weights(profile, args.variant, args.results)}")
    elif args.variant:
        print(f"kept as {few_shot.keep_weights(profile, args.variant, args.data, args.results, device)}")
    elif reference.is_plain(profile):
        print(f"kept in {keep_plain_tables(profile, args.results)}")
    else:
        reference_run = make_run(profile, "reference", args.device, Places(args.data, args.results))
        more = {}
        if diffused.has_weights(profile, "reference", args.results):
            more["diffusion"] = diffused.run_id(profile, "reference", args.results)
        print(f"kept in {few_shot.keep(reference_run, more)}")


def add_running(commands: Subcommands) -> None:
    """The commands that execute the chapters, and keep a run."""
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

    text = "copy a finished run, or a finished training's weights, to results/reference"
    c = commands.add(keep, "keep", text, profile="laptop-full", resumes=True)
    c.add_argument(
        "--variant",
        choices=[*VARIANTS, "diffusion", *EXTRAS, *BASELINES],
        help="keep the weights of this training instead",
    )


def add_evaluating(commands: Subcommands) -> None:
    """The commands that evaluate methods and ablate them."""
    text = "generate the frames and clips that the tables measure"
    c = commands.add(evaluate, "evaluate", text, profile="laptop", resumes=True)
    c.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0])
    c.add_argument("--weights", choices=WEIGHTS, help="the profile's default")
    c.add_argument("--shard", metavar="I/N", help="this part alone, from 0/N to N-1/N")
    c.add_argument(
        "--confirm",
        action="store_true",
        help="Diffused Heads' criteria, on identities not seen before",
    )

    text = "compare talking videos of any method with references, by the metrics of Diffused Heads"
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
    c = commands.add(observe, "observe", text, profile="laptop-full", resumes=True)
    c.add_argument("--weights", choices=WEIGHTS, help="the profile's default")

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

    text = "generate long clips, with and without remedies against drift, and measure how quality lasts"
    c = commands.add(length, "length", text, profile="laptop-full", resumes=True)
    c.add_argument("--weights", choices=WEIGHTS, default="reference")


def add_measuring(commands: Subcommands) -> None:
    """The commands that measure time, memory and sizes."""
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
