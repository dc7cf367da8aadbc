"""Command line: ``python -m talking_heads COMMAND``; every command explains itself with --help."""

import argparse
import os
import sys
from pathlib import Path

from talking_heads import config
from talking_heads.commands import animation, data, experiments, training
from talking_heads.commands.options import Subcommands
from talking_heads.files import Interrupted


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The parsed command line; exits with the usage where a command or an option does not exist."""
    parser = argparse.ArgumentParser(prog="python -m talking_heads", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="where corpora and rendered speakers are kept"
    )
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = Subcommands(parser)
    experiments.add_running(commands)
    experiments.add_evaluating(commands)
    experiments.add_measuring(commands)
    data.add_preparing(commands)
    training.add_training(commands)
    animation.add_animation(commands)
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
    status = main()
    if "RANK" in os.environ:  # Gloo's threads can abort a rank while its interpreter shuts down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    program()
