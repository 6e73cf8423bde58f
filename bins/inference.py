"""Generate with a recipe: python bins/inference.py --config egs/tta/audioldm/exp_config.json --text "A dog barks" """

import argparse
import importlib
import math
import sys
from pathlib import Path
from typing import Any

from sonolume.config.load import load_config, recipe_module
from sonolume.utils import cli
from sonolume.utils.errors import UserError

LARGEST_SEED = 2**62  # torch takes 64 bits; the samples of one run count on from the seed

# Flags mean the same in every recipe that has a use for them (INFERENCE_FLAGS in its config module).
FLAGS: dict[str, dict[str, Any]] = {
    "text": {"action": "append", "metavar": "TEXT", "help": "what should be heard; may be given several times"},
    "text_file": {"type": Path, "metavar": "FILE", "help": "texts, one a line (UTF-8)"},
    "audio": {"action": "append", "type": Path, "metavar": "PATH", "help": "a sound file or a folder of them"},
    "checkpoint": {"metavar": "FOLDER_OR_ID", "help": "exported pipeline folder or hub id (default: this run's)"},
    "output_dir": {"type": Path, "default": Path("outputs"), "help": "folder of the results (default: outputs)"},
    "seed": {"type": int, "default": 0, "help": "of the first sample; the next ones count on from it"},
    "num_samples": {"type": int, "default": 1, "help": "samples of each input"},
    "num_steps": {"type": int, "help": "denoising steps (default: the preset's)"},
    "guidance_scale": {"type": float, "help": "how closely to follow the text; 1 = no guidance"},
    "negative_text": {"default": "", "metavar": "TEXT", "help": "what should not be heard"},
    "scheduler": {"metavar": "NAME", "help": "sampler instead of the preset's: ddim, pndm, dpm++, euler, unipc, ..."},
    "preset": {"metavar": "NAME", "help": "reference, balanced (default) or fast"},
    "duration": {"type": float, "metavar": "SECONDS", "help": "length of the sound"},
    "batch_size": {"type": int, "default": 4, "help": "samples made at once"},
    "device": {"default": "auto", "help": "auto, cpu, cuda, cuda:1, mps"},
    "dtype": {"default": "float32", "choices": ("float32", "bfloat16", "float16"), "help": "of the networks"},
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("inference", "Generate with a trained recipe (or the shipped miniature one).")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe's json or yaml file")
    for name, options in FLAGS.items():
        parser.add_argument(f"--{name}", **(options | {"default": argparse.SUPPRESS}))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    return parser.parse_args(argv)


def check_flags(args: argparse.Namespace, recipe: str, source: Path) -> None:
    """Refuse flags that the recipe has no use for, then fill in the defaults of the others.

    Raises:
        UserError: such a flag was given.
    """
    useful = recipe_module(recipe, source).INFERENCE_FLAGS
    for name, options in FLAGS.items():
        if name in vars(args) and name not in useful:
            raise UserError(f"{recipe} has no use for --{name} (it takes --{', --'.join(useful)})")
        vars(args).setdefault(name, options.get("default"))
    for name in ("num_samples", "num_steps", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(args, name)}")
    for name in ("guidance_scale", "duration"):
        if not math.isfinite(getattr(args, name) or 0):
            raise UserError(f"--{name} must be a finite number, got {getattr(args, name)}")
    if not 0 <= args.seed < LARGEST_SEED:
        raise UserError(f"--seed must be at least 0 and below {LARGEST_SEED}, got {args.seed}")


def main(argv: list[str]) -> None:
    args = parse(argv)
    config = load_config(args.config, args.overrides)
    check_flags(args, config.recipe, args.config)
    inference = importlib.import_module(f"sonolume.models.{config.recipe.replace('/', '.')}.inference")
    inference.run(config, args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
