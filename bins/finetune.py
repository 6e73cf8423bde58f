"""Teach a trained pipeline new sounds: a few clips with captions -> a pipeline folder, or a LoRA file of a few MB.

python bins/finetune.py --config egs/tta/audioldm/finetune.json --input my_clips/ --checkpoint FOLDER_OR_ID
"""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from sonolume.config.load import load_config
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("finetune", "Fine-tune a pipeline on clips of your own; the run is {log_dir}/{exp_name}.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FOLDER_OR_MANIFEST",
        help="clips: a folder with captions in text files, or a csv, json or jsonl manifest",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER_OR_ID",
        help="pipeline to start from (default: the recipe's trained one, else the shipped miniature)",
    )
    parser.add_argument("--method", choices=("full", "lora"), help="train all weights or small adapters beside them")
    parser.add_argument("--resume", action="store_true", help="continue the run from checkpoints/last.ckpt")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    if args.input is not None and not args.input.exists():
        raise UserError(f"--input {args.input}: no such folder or manifest")
    config = load_config(args.config, args.overrides)
    recipe = f"sonolume.models.{config.recipe.replace('/', '.')}"
    finetune = _part(recipe, config.recipe)
    config = finetune.configure(config, args)
    finetune.prepare(config, args.input)  # slow imports start here
    data = importlib.import_module(f"{recipe}.data").training_data(config)
    task = importlib.import_module(f"{recipe}.task").Task(config)
    folder = importlib.import_module("sonolume.models.training").fit(task, data, config, config.train, args.resume)
    print(folder / getattr(task, "export_folder", "pipeline"))


def _part(recipe: str, name: str) -> Any:
    if importlib.util.find_spec(f"{recipe}.finetune") is None:
        raise UserError(f"{name}: this recipe has no fine-tuning")
    return importlib.import_module(f"{recipe}.finetune")


if __name__ == "__main__":
    sys.exit(cli.run(main))
