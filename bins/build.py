"""Make the shipped miniature parts from nothing: python bins/build.py text_to_audio

An interrupted build continues where it stopped. Parts are exported in half precision.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

try:
    import sonolume.utils.startup  # noqa: F401  # first, for Ctrl-C during the other imports
except ModuleNotFoundError as error:
    import environment  # of this folder

    environment.explain(error)
from sonolume.config.load import load_config, recipe_module
from sonolume.config.options import PreprocessOptions
from sonolume.models.recipes import recipe_code
from sonolume.utils import cli, paths
from sonolume.utils.files import atomic_folder
from sonolume.utils.text import message

PARTS = {  # part -> configs in egs/ of the runs that make it, in order; the last one's model is exported
    "sound_judge": ("mini/sound_judge.json",),
    "sound_judge_second": ("mini/sound_judge_second.json",),
    "picture_judge": ("mini/picture_judge.json",),
    "beats": ("mini/beats.json",),
    "clip": ("mini/clip.json",),
    "stable_diffusion": ("mini/clip_text.json", "mini/picture_vae.json", "mini/stable_diffusion.json"),
    # distilled from the shipped stable_diffusion, with the sounds of the shipped audiotoken, audio2img and wavy
    "stable_diffusion/turbo": (
        "mini/turbo.json", "mini/turbo_matching.json", "mini/turbo_on_policy.json",
        "mini/turbo_on_policy_matching.json",
    ),
    "text_to_audio": (
        "mini/text_encoder.json", "tta/autoencoderkl/tiny.json", "tta/hifigan/tiny.json", "tta/audioldm/tiny.json",
    ),
    "audiotoken": ("a2i/audiotoken/tiny.json",),  # trained with the shipped stable_diffusion and beats
    "audio2img": ("a2i/audio2img/tiny.json",),  # trained with the shipped stable_diffusion
    "hubert": ("mini/hubert.json",),
    # trained with the shipped hubert, clip and stable_diffusion
    "wavy": ("s2i/wavy/tiny_encoder.json", "s2i/wavy/tiny_sequence.json"),
    # trained with the shipped clip
    "im2wav": tuple(f"i2a/im2wav/{name}.json" for name in ("tiny_vqvae", "tiny_decoders", "tiny_low", "tiny")),
}  # fmt: skip
COMPONENTS = {  # config -> field of its `model` section -> TASK/EXP_NAME of the run that trains this component
    "mini/stable_diffusion.json": {"vae": "mini/picture_vae", "text_encoder": "mini/clip_text"},
    "tta/audioldm/tiny.json": {
        "autoencoder_path": "tta/tiny_autoencoderkl",
        "text_encoder": "mini/text_encoder",
        "vocoder": "tta/tiny_hifigan",
    },
    "mini/turbo_matching.json": {"distill.student": "mini/turbo"},
    "mini/turbo_on_policy.json": {
        "distill.student": "mini/turbo_matching", "on_policy_student": "mini/turbo_matching",
    },
    "mini/turbo_on_policy_matching.json": {
        "distill.student": "mini/turbo_on_policy", "on_policy_student": "mini/turbo_matching",
    },
    "s2i/wavy/tiny_sequence.json": {"encoder": "s2i/tiny_wavy_encoder"},
    "i2a/im2wav/tiny_decoders.json": {"vqvae_path": "i2a/tiny_im2wav_vqvae"},
    "i2a/im2wav/tiny_low.json": {"vqvae_path": "i2a/tiny_im2wav_decoders"},
    "i2a/im2wav/tiny.json": {"vqvae_path": "i2a/tiny_im2wav_decoders", "low_path": "i2a/tiny_im2wav_low"},
}
PREPARED_BY = {  # by data set
    "miniworld": "tta/autoencoderkl/tiny.json", "miniworld_pairs": "a2i/audiotoken/tiny.json",
    "miniworld_texts": "a2i/audio2img/tiny.json", "miniworld_speech": "s2i/wavy/tiny_encoder.json",
    "miniworld_sounds": "i2a/im2wav/tiny_vqvae.json", "miniworld_films": "i2a/im2wav/tiny_low.json",
}  # fmt: skip


def build(part: str, output_dir: Path, work_dir: Path) -> Path:
    """Train one of `PARTS` with data/ and ckpts/ in `work_dir`, resuming an interrupted build, and export it."""
    from sonolume.models import launch, training  # slow: imports torch

    trained = work_dir
    for file in PARTS[part]:
        config = config_of(file, work_dir)
        dataset = config.dataset[0]
        if hasattr(config, "preprocess") and not (work_dir / "data" / dataset / "train.json").is_file():
            prepared = config_of(PREPARED_BY[dataset], work_dir)
            options = getattr(recipe_module(prepared.recipe), "PreprocessOptions", PreprocessOptions)
            recipe_code(prepared.recipe, "data").preprocess(prepared, options(dataset=dataset))
        resume = launch.last_checkpoint(config.run_dir).is_file()
        if resume:
            message(f"{config.run_dir}: continuing the existing run (remove it to start anew)")
        trained = training.run(config, resume)
    return export(trained, output_dir / part)


def config_of(file: str, work_dir: Path) -> Any:
    """Load a config with all its paths inside `work_dir`."""
    path, work = paths.root() / "egs" / file, work_dir.resolve()
    overrides, plain = [f"log_dir='{work}/ckpts/{Path(file).parts[0]}'"], load_config(path)
    for field, run in COMPONENTS.get(file, {}).items():
        overrides.append(f"model.{field}='{work}/ckpts/{run}/pipeline'")
    if hasattr(plain, "preprocess"):
        overrides.append(f"preprocess.processed_dir='{work}/data'")
    if hasattr(plain, "cache_dir"):
        overrides.append(f"cache_dir='{work}/data/miniworld/cache'")
    return load_config(path, overrides)


def export(source: Path, target: Path) -> Path:
    """Copy a model folder with the float tensors of every safetensors file as float16; returns `target`."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with atomic_folder(target) as folder:
        # a shipped folder holds no copy of the library's code
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            tensors = load_file(path).items()
            halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors}
            save_file(halved, path, metadata=metadata)
    return target


def main(argv: list[str]) -> None:
    about = "Train the shipped miniature models (parts) from scratch and export them."
    parser = cli.parser(cli.program("build"), about)
    parts_help = "parts to train and export; audiotoken needs beats and stable_diffusion, audio2img the latter"
    parser.add_argument("part", nargs="+", choices=(*PARTS, "all"), help=parts_help)
    for flag, default, what in (
        ("--output_dir", paths.work_dir() / "pretrained" / "mini", "exported parts (default: pretrained/mini)"),
        ("--work_dir", paths.work_dir(), "data/ and ckpts/ (default: the repository root)"),
    ):
        parser.add_argument(flag, type=Path, default=default, metavar="FOLDER", help=f"folder for {what}")
    args = parser.parse_args(argv)
    for flag in ("output_dir", "work_dir"):
        paths.check_folder(getattr(args, flag), f"--{flag}")
    for part in PARTS if "all" in args.part else args.part:
        print(build(part, args.output_dir, args.work_dir))


if __name__ == "__main__":
    sys.exit(cli.run(main))
