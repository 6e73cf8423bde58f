"""Measure a trained recipe: python bins/evaluate.py --config egs/tta/audioldm/tiny.json [--checkpoint FOLDER]"""

import argparse
import importlib
import sys
from pathlib import Path

from sonolume.config.load import load_config
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("evaluate", "Score a trained recipe; writes a json and a Markdown report.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    parser.add_argument("--checkpoint", metavar="FOLDER_OR_ID", help="exported folder or hub id (default: this run's)")
    parser.add_argument("--output_dir", type=Path, default=Path("evaluation"), help="folder of the report")
    parser.add_argument("--num_samples", type=int, default=600, help="captions or clips to score (default: 600)")
    parser.add_argument("--num_steps", type=int, help="denoising steps (default: the preset's)")
    parser.add_argument("--guidance_scale", type=float, help="how closely to follow the text")
    parser.add_argument("--preset", metavar="NAME", help="reference, balanced (default) or fast")
    parser.add_argument("--seed", type=int, default=0, help="of the first sample; the next ones count on from it")
    parser.add_argument("--batch_size", type=int, default=16, help="samples made at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    args = parser.parse_args(argv)
    for name in ("num_samples", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


def main(argv: list[str]) -> None:
    args = parse(argv)
    config = load_config(args.config, args.overrides)
    evaluate = importlib.import_module(f"sonolume.models.{config.recipe.replace('/', '.')}.evaluate")
    evaluate.run(config, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
