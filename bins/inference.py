"""Generate with a recipe: python bins/inference.py --config egs/tta/audioldm/exp_config.json --text "A dog barks" """

import argparse
import importlib
import sys
from pathlib import Path

from sonolume.config.load import load_config, recipe_module
from sonolume.utils import cli, flags


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("inference", "Generate with a trained recipe (or the shipped miniature one).")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    flags.add(parser, flags.INFERENCE)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    config = load_config(args.config, args.overrides)
    useful = recipe_module(config.recipe, args.config).INFERENCE_FLAGS
    flags.check(args, flags.INFERENCE, useful, config.recipe)
    inference = importlib.import_module(f"sonolume.models.{config.recipe.replace('/', '.')}.inference")
    inference.run(config, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
