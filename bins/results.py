"""Measure all shipped parts, and write the README's table of results: python bins/results.py

Interrupted, it goes on where it stopped.
"""

import argparse
import sys
from pathlib import Path

from sonolume.bins import evaluate
from sonolume.utils import cli, paths


def parse(argv: list[str]) -> argparse.Namespace:
    root = paths.root()
    parser = cli.parser("results", "Measure all shipped parts, and write the README's table of results.")
    parser.add_argument("--output_dir", type=Path, default=root / "evaluation" / "results", help="of all reports")
    parser.add_argument("--readme", type=Path, default=root / "README.md", help="the page that gets the table")
    parser.add_argument("--num_samples", type=int, help="captions or clips of each recipe (default: its own)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    from sonolume.models.evaluation import summary

    number = [] if args.num_samples is None else ["--num_samples", str(args.num_samples)]
    measured = summary.measurable()
    for count, one in enumerate(measured, 1):
        print(f"{count} of {len(measured)}: {one.title}", file=sys.stderr, flush=True)
        given = ["--config", str(one.config), "--checkpoint", str(one.checkpoint)]
        evaluate.main([*given, "--output_dir", str(args.output_dir / one.name), *number])
    summary.put_into(args.readme, summary.table(measured, args.output_dir))
    print(args.readme)


if __name__ == "__main__":
    sys.exit(cli.run(main))
