"""Options that several commands share, and how a command is declared."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from talking_heads import config


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


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """The options of a synthetic video."""
    parser.add_argument(
        "--out", type=Path, required=True, help="the video to write: .mp4, .mov, .mkv or .webm"
    )
    parser.add_argument("--kind", default="real person", help="real person, painting or procedural speaker")
    parser.add_argument(
        "--no-mark", action="store_true", help="no 'synthetic' in a corner; the metadata keeps it"
    )
