"""Make the shipped miniature parts from nothing: python bins/build.py text_to_audio

An interrupted build continues where it stopped.
"""

import os
import sys
from pathlib import Path

from sonolume.models.mini.build import PARTS, build
from sonolume.utils import cli, paths


def main(argv: list[str]) -> None:
    program = os.environ.get("SONOLUME_COMMAND", "build")
    parser = cli.parser(program, "Train the shipped miniature parts from nothing and export them.")
    parser.add_argument("part", nargs="+", choices=(*PARTS, "all"), help="parts to make; judges first")
    shipped = paths.root() / "pretrained" / "mini"
    for flag, default, what in (
        ("--output_dir", shipped, "folder of the exported parts (default: pretrained/mini)"),
        ("--work_dir", paths.root(), "folder of data/ and ckpts/ (default: the checkout)"),
    ):
        parser.add_argument(flag, type=Path, default=default, metavar="FOLDER", help=what)
    args = parser.parse_args(argv)
    for part in PARTS if "all" in args.part else args.part:
        print(build(part, args.output_dir, args.work_dir))


if __name__ == "__main__":
    sys.exit(cli.run(main))
