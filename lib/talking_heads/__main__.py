"""Command line: ``python -m talking_heads COMMAND``; every command explains itself with --help."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from .profiles import VARIANTS


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the message says what is kept."""


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


def sizes(args: argparse.Namespace) -> None:
    from .profiles import load
    from .reproduce.tables import sizes_of
    table = sizes_of(load(args.profile))
    if args.json:
        print(json.dumps(table))
    else:
        for name, n in table.items():
            print(f"{name:24}{n:>12,}")


def judges(args: argparse.Namespace) -> None:
    from .judges.training import train_judges
    train_judges(args.data / "pools", args.only, args.minutes)


def meta_learn(args: argparse.Namespace) -> None:
    from .reproduce.trainings import train_reference
    train_reference(args.profile, args.variant, args.data, args.results, args.minutes * 60, args.device)


def search(args: argparse.Namespace) -> None:
    from .reproduce import search as of
    if args.pretraining:
        of.pretraining(args.profile, args.pretraining, args.shots, args.data, args.results, args.device)
    else:
        of.search(args.profile, args.method, args.shots, args.data, args.results, args.device)


def exercise(args: argparse.Namespace) -> None:
    import tempfile

    from .reproduce.exercise import exercise as run
    with tempfile.TemporaryDirectory() as folder:
        stages = run(args.profile, args.clips, Path(folder), args.device)
    if args.json:
        print(stages.to_json(orient="records"))


def prepare(args: argparse.Namespace) -> None:
    from .corpus.prepare import Settings
    from .corpus.prepare import prepare as run
    from .devices import choose
    lines = run(args.source, args.out, Settings(args.size, args.frames_per_video), args.layout, str(choose(args.device)), args.workers)
    kept = sum(1 for line in lines if line["frames"])
    print(f"{kept} of {len(lines)} sources prepared in {args.out}")
    for line in lines:
        if line["note"]:
            print(f"  {line['source']}: {line['note']}".replace("\n", " ").replace("\r", " "))


def weights(args: argparse.Namespace) -> None:
    from . import weights as w
    for name in args.names or w.PRETRAINED:
        one = w.PRETRAINED.get(name)
        if args.action == "fetch":
            print(f"{name}: {w.fetch(name)}")
        elif args.action == "verify" and w.path_of(name).exists():
            print(f"{name}: sha256 {w.verify(name)}")
        else:
            print(f"{name:10} {w.status(name):8} {one.file}; {one.used_for}; licence: {one.licence}\n{'':20}{w.path_of(name)}\n{'':20}{one.url}")


def animate(args: argparse.Namespace) -> None:
    from .devices import choose
    from .driving import animate as a
    from .driving.heads import check_kind, load_head
    from .files import appended, try_outputs
    from .profiles import load
    from .reproduce.reference import load_networks, own
    if bool(args.photo) == bool(args.head):
        raise ValueError("give either --photo (photographs, or a clip, to learn from) or --head (a kept one)")
    if args.head and args.keep:
        raise ValueError("--keep says where a head that is learned goes; --head gives one that is kept already")
    check_kind(args.kind)
    photos = a.learned_from(args.photo or (), args.driver)
    person = (args.person or args.photo[0].stem) if photos else None
    keep = (args.keep or appended(args.out, ".head")) if photos else None
    outputs = a.check_files(args.out, keep, [*photos, *([args.head] if args.head else []), args.driver], person)
    before = keep and keep.exists() and keep.stat().st_mtime_ns
    try:
        device = choose(args.device)
        detect = a.detector_for([*photos, args.driver], device)
        head = load_head(args.head, device) if args.head else None
        profile = load(args.profile)
        driver = a.read_driver(args.driver, head.settings.image_size if head else profile.image_size, detect)  # before the minutes of learning
        video_bytes = 20_000 * len(driver.points)
        if head is None:
            nets, about = load_networks(profile, own(profile), "reference" if profile.reference_weights else "scratch", args.results, device)
            few = a.source_frames(photos, profile, args.shots, detect, pupils=driver.points.shape[1] == 70)
            try_outputs(outputs, video_bytes + few.images.nbytes + 4 * sum(p.numel() for p in nets.generator.parameters()))
            print(f"learning a head from {len(few.images)} frames", flush=True)
            card = {"person": person, "kind": args.kind, "origin": ", ".join(p.name for p in photos), "weights": about["commit"]}
            head = a.learn(nets, few, profile, keep, card, device)
        else:
            try_outputs(outputs, video_bytes)
        print(f"driving it through {len(driver.points)} frames", flush=True)
        frames = a.perform(head, driver, adapt=not args.raw, smooth=not args.raw)
        print(a.export(args.out, frames, driver, head.card, mark=not args.no_mark))
    except KeyboardInterrupt as interrupt:
        kept = keep and keep.exists() and keep.stat().st_mtime_ns != before
        raise Interrupted(f"interrupted; the head is kept: go on with --head {keep} in place of --photo" if kept
                          else "interrupted; nothing was written") from interrupt


def face_shape(args: argparse.Namespace) -> None:
    from .corpus import build
    from .profiles import load
    from .reproduce.trainings import fit_face_shape
    profile = load(args.profile)
    build.ensure(profile, args.data)
    fit_face_shape(profile, args.data)


def run(args: argparse.Namespace) -> int:
    from .reproduce.matrix import run_matrix
    return run_matrix(args.profile, args.only, args.jobs, args.dry_run, args.device, args.weights, args.data, args.results, args.notebooks)


def keep(args: argparse.Namespace) -> None:
    from .profiles import load
    from .reproduce import matrix, reference
    profile = load(args.profile)
    if args.variant:
        print(f"kept as {reference.keep_weights(profile, args.variant, args.results)}")
    else:
        print(f"kept in {reference.keep(matrix.the_run(profile, 'reference', 'auto', args.data, args.results, Path('notebooks')))}")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for; exits with the usage where a command or an option does not exist."""
    from .profiles import names
    parser = argparse.ArgumentParser(prog="python -m talking_heads", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where corpora and rendered people are kept")
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = parser.add_subparsers(dest="command", required=True)

    c = commands.add_parser("run", help="execute the chapters (./run_all.sh does this)")
    c.add_argument("--profile", default="laptop", help=f"one of {', '.join(names())}")
    c.add_argument("--only", nargs="+", metavar="CHAPTER", help="by name or number; what they need comes along")
    c.add_argument("--jobs", type=COUNT, default=1, help="chapters at once")
    c.add_argument("--dry-run", action="store_true", help="say what would run and what is missing, and do nothing")
    c.add_argument("--device", default="auto", help="auto, cpu or cuda")
    c.add_argument("--weights", choices=["reference", "scratch"], help="committed weights, or train everything; by default what the profile has")
    c.add_argument("--notebooks", type=Path, default=Path("notebooks"))
    c.set_defaults(run=run)

    c = commands.add_parser("prepare", help="videos or photographs to a corpus: landmarks, crops, manifest")
    c.add_argument("source", type=Path, help="a folder, or one file")
    c.add_argument("out", type=Path, help="a folder for the corpus, beside the source")
    c.add_argument("--size", type=number(int, 16, "a whole number of pixels from 16 to 2048", 2048), default=64, help="pixels of the square crop")
    c.add_argument("--layout", choices=["folder", "voxceleb1", "voxceleb2"], default="folder")
    c.add_argument("--frames-per-video", type=number(int, 0, "a whole number of at least 0"), default=64, help="evenly spaced; 0 keeps all")
    c.add_argument("--workers", type=COUNT)
    c.add_argument("--device", default="auto")
    c.set_defaults(run=prepare)

    c = commands.add_parser("weights", help="pretrained networks: what is there, what is missing, under which licence")
    c.add_argument("action", choices=["list", "fetch", "verify"])
    c.add_argument("names", nargs="*")
    c.set_defaults(run=weights)

    c = commands.add_parser("sizes", help="parameters of a profile's networks, counted from the built modules")
    c.add_argument("--profile", default="laptop")
    c.add_argument("--json", action="store_true")
    c.set_defaults(run=sizes)

    c = commands.add_parser("judges", help="train the embedded judges again and write their weights into the package")
    c.add_argument("--only", nargs="+", choices=["attributes", "people", "identity", "landmarks", "lids", "gaze"])
    c.add_argument("--minutes", type=MINUTES, help="for each; by default what the committed ones had")
    c.set_defaults(run=judges)

    c = commands.add_parser("meta-learn", help="train the reference weights, or go on with them; stop and repeat as you like")
    c.add_argument("--profile", default="laptop-full")
    c.add_argument("--variant", choices=VARIANTS, required=True)
    c.add_argument("--minutes", type=MINUTES, default=math.inf, help="of this slice")
    c.add_argument("--device", default="auto")
    c.set_defaults(run=meta_learn)

    c = commands.add_parser("search", help="try fine-tuning's rates and epochs on the validation people")
    c.add_argument("--profile", default="laptop-full")
    c.add_argument("--method", choices=["ours", "pix2pixhd"], default="ours")
    c.add_argument("--shots", type=COUNT, default=8, help="T")
    c.add_argument("--pretraining", type=COUNT, nargs="+", metavar="STEPS", help="of Pix2pixHD instead: what trainings of these lengths are worth")
    c.add_argument("--device", default="auto")
    c.set_defaults(run=search)

    c = commands.add_parser("exercise", help="go through a profile once, at its sizes, with two steps of training: time and memory")
    c.add_argument("--profile", default="voxceleb1")
    c.add_argument("--clips", type=Path, help="a folder of videos; rendered speakers by default")
    c.add_argument("--device", default="auto")
    c.add_argument("--json", action="store_true")
    c.set_defaults(run=exercise)

    c = commands.add_parser("animate", help="photographs (or a clip) and a driver's clip to a moving head, with the driver's sound")
    c.add_argument("--photo", type=Path, nargs="+", metavar="FILE", help="photographs, a folder of them, or a clip, of one person to learn from")
    c.add_argument("--head", type=Path, help="a kept head instead")
    c.add_argument("--driver", type=Path, required=True, help="the clip whose movements and sound it gets")
    c.add_argument("--out", type=Path, required=True, help="the video to write: .mp4, .mov, .mkv or .webm")
    c.add_argument("--keep", type=Path, help="where to keep the head; <out>.head by default")
    c.add_argument("--shots", type=COUNT, default=8, help="frames to learn from, at most")
    c.add_argument("--person", help="whose head it is, for its card")
    c.add_argument("--kind", default="real person", help="real person, painting or procedural speaker")
    c.add_argument("--raw", action="store_true", help="the driver's landmarks as they are: neither adapted nor smoothed")
    c.add_argument("--no-mark", action="store_true", help="no 'synthetic' in a corner; the metadata says it all the same")
    c.add_argument("--profile", default="laptop")
    c.add_argument("--device", default="auto")
    c.set_defaults(run=animate)

    c = commands.add_parser("face-shape", help="fit the linear face shapes of landmark adaptation to a profile's people again")
    c.add_argument("--profile", default="laptop")
    c.set_defaults(run=face_shape)

    c = commands.add_parser("keep", help="copy a finished run, or a finished training's weights, to results/reference")
    c.add_argument("--profile", default="laptop-full")
    c.add_argument("--variant", choices=VARIANTS, help="keep the weights of this training instead")
    c.set_defaults(run=keep)

    for c in commands.choices.values():
        goes_on = c.get_default("run") in (run, prepare, judges, meta_learn, search)
        c.set_defaults(interrupted="interrupted; what is finished is kept, and the same command goes on from there" if goes_on else
                       "interrupted; run the same command again")
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # the command's own usage names the options that exist
        commands.choices[args.command].error(f"unknown arguments: {' '.join(unknown)}")
    return args


def main(argv: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    args = arguments(argv)
    try:
        return args.run(args) or 0
    except MemoryError as error:
        print(f"error: {error or 'memory ran out; close other programs'}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"error: {error}; make the environment anew with ./run_all.sh (it installs the OpenCV that needs no libGL)", file=sys.stderr)
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
        return 130


def program() -> None:
    """Run the command line in Python's UTF-8 mode: files are UTF-8 whatever the terminal's language is."""
    if not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "talking_heads", *sys.argv[1:]])
    sys.exit(main())


if __name__ == "__main__":
    program()
