"""Train the shipped miniature parts from nothing and export them in half precision."""

import importlib
import shutil
import sys
from pathlib import Path

from sonolume.config.load import load_config, recipe_module
from sonolume.config.options import PreprocessOptions
from sonolume.models.recipes import recipe_code
from sonolume.utils import paths
from sonolume.utils.files import atomic_folder

WORLD = "egs/tta/autoencoderkl/tiny.json"  # prepares the mels that other parts train on, too
PAIRS = "egs/a2i/audiotoken/tiny.json"  # prepares sounds with pictures
DATA = "preprocess.processed_dir='{work}/data'"
MINI, TTA, A2I = (f"log_dir='{{work}}/ckpts/{task}'" for task in ("mini", "tta", "a2i"))

# part -> (config, overrides) of the runs that make it; the last run's pipeline folder is exported
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
    "audiotoken": ((PAIRS, (A2I, DATA)),),  # trained with the shipped stable_diffusion and beats
}


def build(part: str, output_dir: Path, work_dir: Path) -> Path:
    """Train one part, resuming an interrupted build, and export it.

    Args:
        part: a key of `PARTS`.
        output_dir: the part becomes the folder {output_dir}/{part}.
        work_dir: holds data/ and ckpts/.
    """
    work = work_dir.resolve()
    if any(DATA in overrides for _, overrides in PARTS[part]):
        _prepare(WORLD, work)
    if part == "audiotoken":
        _prepare(PAIRS, work)
    exported = work
    for file, overrides in PARTS[part]:
        exported = _train(file, overrides, work)
    return export(exported, output_dir / part)


def _prepare(file: str, work: Path) -> None:
    """Preprocess the data set of a config, unless it is there."""
    config = load_config(paths.root() / file, [DATA.format(work=work)])
    dataset = config.dataset[0]
    if not (work / "data" / dataset / config.preprocess.train_file).is_file():
        options = getattr(recipe_module(config.recipe, file), "PreprocessOptions", PreprocessOptions)
        recipe_code(config.recipe, "data").preprocess(config, options(dataset=dataset))


def _train(file: str, overrides: tuple[str, ...], work: Path) -> Path:
    training = importlib.import_module("sonolume.models.training")  # slow: imports torch
    config = load_config(paths.root() / file, [override.format(work=work) for override in overrides])
    resume = (config.run_dir / "checkpoints" / "last.ckpt").is_file()
    if resume:
        print(f"{config.run_dir}: continuing the existing run (remove it to start anew)", file=sys.stderr)
    training.run(config, resume)
    return config.run_dir / "pipeline"


def export(source: Path, target: Path) -> Path:
    """Copy a model folder with the float tensors of every safetensors file as float16; returns `target`."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            tensors = {
                name: tensor.half() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(path).items()
            }
            save_file(tensors, path, metadata=metadata)
    return target
