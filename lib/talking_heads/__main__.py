"""Command line: ``python -m talking_heads COMMAND``; every command explains itself with --help."""

import argparse
import json
import math
import os
import sys
from pathlib import Path


def sizes(args: argparse.Namespace) -> None:
    from .meta_learning import build
    from .profiles import load
    profile = load(args.profile)
    nets = build(profile, 1)
    count = lambda m: sum(p.numel() for p in m.parameters())
    table = {"embedder": count(nets.embedder), "discriminator_convnet": count(nets.discriminator.convnet),
             "generator": count(nets.generator), "person_parameters": nets.generator.person_parameters}
    if args.json:
        print(json.dumps(table))
    else:
        for name, n in table.items():
            print(f"{name:24}{n:>12,}")


def judges(args: argparse.Namespace) -> None:
    from .judges.training import train_judges
    train_judges(args.data / "pools", args.only, args.minutes)


def meta_learn(args: argparse.Namespace) -> None:
    from .reproduce.reference import train_reference
    train_reference(args.profile, args.variant, args.data, args.results, args.minutes * 60, args.device)


def main(argv: list[str] | None = None) -> int:
    import torch
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    parser = argparse.ArgumentParser(prog="python -m talking_heads", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where corpora and rendered people are kept")
    parser.add_argument("--results", type=Path, default=Path("results"))
    commands = parser.add_subparsers(dest="command", required=True)

    c = commands.add_parser("sizes", help="parameters of a profile's networks, counted from the built modules")
    c.add_argument("--profile", default="laptop")
    c.add_argument("--json", action="store_true")
    c.set_defaults(run=sizes)

    c = commands.add_parser("judges", help="train the embedded judges again and write their weights into the package")
    c.add_argument("--only", nargs="+", choices=["attributes", "people", "identity", "landmarks"])
    c.add_argument("--minutes", type=float, default=6.0, help="for each")
    c.set_defaults(run=judges)

    c = commands.add_parser("meta-learn", help="train the reference weights, or go on with them; stop and repeat as you like")
    c.add_argument("--profile", default="laptop-full")
    c.add_argument("--variant", choices=["ft", "ff"], required=True)
    c.add_argument("--minutes", type=float, default=math.inf, help="of this slice")
    c.add_argument("--device", default="auto")
    c.set_defaults(run=meta_learn)

    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
