"""Train a recipe: python bins/train.py --config egs/tta/autoencoderkl/tiny.json [--resume] [train.batch_size=4 ...]"""

import argparse
import importlib
import sys
from pathlib import Path

from sonolume.config.load import load_config
from sonolume.models.embedders.load import check
from sonolume.utils import cli


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("train", "Train a recipe; its folder is {log_dir}/{exp_name}.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    parser.add_argument("--resume", action="store_true", help="continue the run from checkpoints/last.ckpt")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    config = load_config(args.config, args.overrides)
    evaluation = getattr(config, "evaluation", None)
    for embedder in evaluation.embedders if evaluation and evaluation.num_samples else ():
        check(embedder)
    recipe = f"sonolume.models.{config.recipe.replace('/', '.')}"
    data = importlib.import_module(f"{recipe}.data").training_data(config)  # slow imports start here
    task = importlib.import_module(f"{recipe}.task").Task(config)
    training = importlib.import_module("sonolume.models.training")
    folder = training.fit(task, data, config, config.train, args.resume)
    print(folder / getattr(task, "export_folder", "pipeline"))


if __name__ == "__main__":
    sys.exit(cli.run(main))
