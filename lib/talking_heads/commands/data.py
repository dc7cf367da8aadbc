"""The command that prepares corpora."""

import argparse
from collections import Counter
from pathlib import Path

from talking_heads import config
from talking_heads.commands.options import COUNT, NATURAL, Subcommands, number


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
            raise ValueError("--profile determines the source and its options: leave them out")
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
    for name, count in Counter(line["detector"] for line in lines if line.get("detector")).items():
        print(f"  landmarks of {count} sources by {name}")
    for line in lines:
        if line["note"]:
            print(f"  {line['source']}: {line['note']}".replace("\n", " ").replace("\r", " "))


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
