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
    parser = cli.parser(program, "Train the shipped miniature models (parts) from scratch and export them.")
    parser.add_argument(
        "part",
        nargs="+",
        choices=(*PARTS, "all"),
        help="parts to train and export; audiotoken needs beats and stable_diffusion",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=paths.root() / "pretrained" / "mini", metavar="FOLDER",
        help="folder for the exported parts (default: pretrained/mini)",
    )  # fmt: skip
    parser.add_argument(
        "--work_dir", type=Path, default=paths.root(), metavar="FOLDER",
        help="folder for data/ and ckpts/ (default: the repository root)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for part in PARTS if "all" in args.part else args.part:
        print(build(part, args.output_dir, args.work_dir))


if __name__ == "__main__":
    sys.exit(cli.run(main))
