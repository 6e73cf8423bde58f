"""Make the shipped miniature parts from nothing: python bins/build.py text_to_audio

Interrupted, it goes on where it stopped.
"""

import argparse
import importlib
import sys
from pathlib import Path

from sonolume.bins import preprocess, train
from sonolume.config.load import load_config
from sonolume.utils import cli, paths

WORLD = "egs/tta/autoencoderkl/tiny.json"  # makes the mel features that other parts train on, too
TEXT_ENCODER = "egs/mini/text_encoder.json"
LATENT_DIFFUSION = "egs/tta/audioldm/tiny.json"
FROM_NOTHING = ("model.text_encoder=ckpts/mini/text_encoder/pipeline",)  # not the shipped one

# part -> the recipes that make it: (config, overrides); the last one's pipeline folder is shipped
PARTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "sound_judge": (("egs/mini/sound_judge.json", ()),),
    "sound_judge_second": (("egs/mini/sound_judge_second.json", ()),),
    "picture_judge": (("egs/mini/picture_judge.json", ()),),
    "text_to_audio": ((TEXT_ENCODER, ()), (WORLD, ()), (LATENT_DIFFUSION, FROM_NOTHING)),
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("build", "Make the shipped miniature parts from nothing.")
    parser.add_argument("part", nargs="+", choices=(*PARTS, "all"), help="which; judges first")
    parser.add_argument("--output_dir", type=Path, default=paths.root() / "pretrained" / "mini", help="where they go")
    return parser.parse_args(argv)


def make(part: str, output_dir: Path) -> Path:
    """Train one part (resuming what was begun) and put it, in half precision, into `output_dir`."""
    root = paths.root()
    if not (root / "data" / "miniworld" / "train.json").is_file():
        preprocess.main(["--config", str(root / WORLD)])
    run_dir = root
    for config, overrides in PARTS[part]:
        arguments = ["--config", str(root / config), *overrides]
        run_dir = load_config(root / config, overrides).run_dir
        begun = (run_dir / "checkpoints" / "last.ckpt").is_file()
        train.main([*arguments, *(["--resume"] if begun else [])])
    ship = importlib.import_module("sonolume.models.mini.ship")
    return ship.ship(run_dir / "pipeline", output_dir / part)


def main(argv: list[str]) -> None:
    args = parse(argv)
    for part in PARTS if "all" in args.part else args.part:
        print(make(part, args.output_dir))


if __name__ == "__main__":
    sys.exit(cli.run(main))
