"""Measure a trained recipe: python bins/evaluate.py --config egs/tta/audioldm/tiny.json [--checkpoint FOLDER]"""

import argparse
import importlib
import sys
from pathlib import Path

from sonolume.config.load import load_config, recipe_module
from sonolume.utils import cli, flags


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("evaluate", "Score a trained recipe; writes a json and pictures, and prints the scores.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    flags.add(parser, flags.EVALUATION)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    config = load_config(args.config, args.overrides)
    useful = getattr(recipe_module(config.recipe, args.config), "EVALUATION_FLAGS", ())
    flags.check(args, flags.EVALUATION, useful, config.recipe)
    if args.output_dir is None:  # one of its own: what is there already is gone on with
        args.output_dir = Path("evaluation") / config.recipe.replace("/", "_")
    evaluate = importlib.import_module(f"sonolume.models.{config.recipe.replace('/', '.')}.evaluate")
    evaluate.run(config, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
