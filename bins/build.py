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
PAIRS = "egs/a2i/audiotoken/tiny.json"  # prepares sounds with pictures first
DATA = "preprocess.processed_dir='{work}/data'"
MINI, TTA = "log_dir='{work}/ckpts/mini'", "log_dir='{work}/ckpts/tta'"

# part -> the recipes that make it: (config, overrides); the last one's pipeline folder is shipped
PARTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "sound_judge": (("egs/mini/sound_judge.json", (MINI, DATA)),),
    "sound_judge_second": (("egs/mini/sound_judge_second.json", (MINI, DATA)),),
    "picture_judge": (("egs/mini/picture_judge.json", (MINI,)),),
    "beats": (("egs/mini/beats.json", (MINI,)),),
    "stable_diffusion": (
        ("egs/mini/clip_text.json", (MINI,)),
        ("egs/mini/picture_vae.json", (MINI,)),
        (
            "egs/mini/stable_diffusion.json",
            (
                MINI,
                "cache_dir='{work}/data/miniworld/cache'",
                "model.vae='{work}/ckpts/mini/picture_vae/pipeline'",
                "model.text_encoder='{work}/ckpts/mini/clip_text/pipeline'",
            ),
        ),
    ),
    "text_to_audio": (
        ("egs/mini/text_encoder.json", (MINI,)),
        (WORLD, (TTA, DATA)),
        ("egs/tta/hifigan/tiny.json", (TTA, DATA)),
        (
            "egs/tta/audioldm/tiny.json",
            (
                TTA,
                DATA,
                "model.autoencoder_path='{work}/ckpts/tta/tiny_autoencoderkl/pipeline'",
                "model.text_encoder='{work}/ckpts/mini/text_encoder/pipeline'",  # not the shipped one
                "model.vocoder='{work}/ckpts/tta/tiny_hifigan/pipeline'",
            ),
        ),
    ),
    "audiotoken": ((PAIRS, ("log_dir='{work}/ckpts/a2i'", DATA)),),  # beside the shipped stable_diffusion and beats
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.parser("build", "Make the shipped miniature parts from nothing.")
    parser.add_argument("part", nargs="+", choices=(*PARTS, "all"), help="which; judges first")
    parser.add_argument("--output_dir", type=Path, default=paths.root() / "pretrained" / "mini", help="where they go")
    parser.add_argument("--work_dir", type=Path, default=paths.root(), help="holds data/ and ckpts/ (default: here)")
    return parser.parse_args(argv)


def make(part: str, output_dir: Path, work_dir: Path) -> Path:
    """Train one part (resuming what was begun) and put it, in half precision, into `output_dir`."""
    root, work = paths.root(), work_dir.resolve()
    needs_mels = any(DATA in templates for _, templates in PARTS[part])
    if needs_mels and not (work / "data" / "miniworld" / "train.json").is_file():
        preprocess.main(["--config", str(root / WORLD), DATA.format(work=work)])
    if part == "audiotoken" and not (work / "data" / "miniworld_pairs" / "train.json").is_file():
        preprocess.main(["--config", str(root / PAIRS), DATA.format(work=work)])
    run_dir = work
    for config, templates in PARTS[part]:
        overrides = [template.format(work=work) for template in templates]
        run_dir = load_config(root / config, overrides).run_dir
        begun = (run_dir / "checkpoints" / "last.ckpt").is_file()
        if begun:
            print(f"{run_dir}: going on with what is there (remove it to start anew)", file=sys.stderr)
        train.main(["--config", str(root / config), *overrides, *(["--resume"] if begun else [])])
    ship = importlib.import_module("sonolume.models.mini.ship")
    return ship.ship(run_dir / "pipeline", output_dir / part)


def main(argv: list[str]) -> None:
    args = parse(argv)
    for part in PARTS if "all" in args.part else args.part:
        print(make(part, args.output_dir, args.work_dir))


if __name__ == "__main__":
    sys.exit(cli.run(main))
