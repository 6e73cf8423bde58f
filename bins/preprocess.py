"""Raw files -> manifest and features.

python bins/preprocess.py --config egs/tta/autoencoderkl/tiny.json
python bins/preprocess.py --config egs/tta/autoencoderkl/exp_config.json --input my_sounds/ --dataset mine
python bins/preprocess.py --config egs/tta/autoencoderkl/exp_config.json --input train.csv --audio_dir wavs/
"""

import argparse
import importlib
import sys
from pathlib import Path

from sonolume.config.load import load_config
from sonolume.utils import cli
from sonolume.utils.errors import UserError


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("preprocess", "Turn raw files into the manifest and the features that training reads.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FOLDER_OR_MANIFEST",
        help="recordings: a folder with captions in text files, a csv, json or jsonl manifest, or AudioCaps",
    )
    parser.add_argument(
        "--audio_dir", type=Path, metavar="FOLDER", help="the sound files that --input names, if not beside it"
    )
    parser.add_argument("--dataset", metavar="NAME", help="name of the prepared data (default: the config's first)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    config = load_config(args.config, args.overrides)
    if not config.dataset:
        raise UserError(f"{args.config}: dataset: the list is empty, name at least one data set")
    args.dataset = args.dataset or config.dataset[0]
    if args.input is not None and not args.input.exists():
        raise UserError(f"--input {args.input}: no such folder or manifest")
    if args.audio_dir is not None and args.input is None:
        raise UserError("--audio_dir needs --input: the csv, json or jsonl file, or the folder, that names the sounds")
    if args.audio_dir is not None and not args.audio_dir.is_dir():
        raise UserError(f"--audio_dir {args.audio_dir}: no such folder")
    data = importlib.import_module(f"sonolume.models.{config.recipe.replace('/', '.')}.data")  # slow: imports torch
    data.preprocess(config, args)
    if args.dataset not in config.dataset:
        print(f"to train on it: dataset=[{args.dataset}]")


if __name__ == "__main__":
    sys.exit(cli.run(main))
