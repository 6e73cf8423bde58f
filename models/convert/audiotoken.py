"""AudioToken's published embedder, and its old LoRA file, -> the folder that a2i/audiotoken exports.

Tested on fabricated files with the names and shapes of embedder_learned_embeds.bin (768 and 1024 wide) and of the LoRA
file that was once published; no published file could be opened.
"""

import re
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.logging import disable_progress_bar
from safetensors.torch import save_file
from torch import Tensor

from sonolume.models import lora
from sonolume.models.a2i.audiotoken import encoder
from sonolume.models.convert.amphion import SOURCE_FILE, fill, some
from sonolume.modules.audiotoken.embedder import AudioTokenEmbedder
from sonolume.utils import checkpoint, files
from sonolume.utils.errors import UserError

PROMPT = "a photo of <*>, 4k, high resolution"  # of the official inference
WINDOW = 10.0  # seconds that the official inference hears
STABLE_DIFFUSION = {768: "CompVis/stable-diffusion-v1-4", 1024: "stabilityai/stable-diffusion-2"}  # width -> id
PATTERNS = ("*embedder_learned_embeds*.bin", "*learned_embeds*.bin")  # as published; as training left them
OFFICIAL_LORA = re.compile(r"(.+\.attn[12])\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")
HALVES = {"down": "lora_A", "up": "lora_B"}


def convert(source: Path, folder: Path, beats: str, stable_diffusion: str | None, lora_file: Path | None) -> None:
    """Write what `run_inference.sh --checkpoint` takes.

    Args:
        source: the embedder's file, or a folder that holds it.
        beats, stable_diffusion: folders or hub ids that the folder will name; None: the published one of this width.
        lora_file: the adapters that were trained with it.

    Raises:
        UserError: absent, damaged, another network, or not as published.
    """
    path = find(source)
    embedder = read(path)
    width = embedder.config.output_size
    adapters = read_lora(lora_file) if lora_file else {}
    settings = {
        "stable_diffusion": _place(stable_diffusion or STABLE_DIFFUSION.get(width, "")),
        "beats": _place(beats),
        "prompt": PROMPT,
        "window": WINDOW,
    }
    if not settings["stable_diffusion"]:
        raise UserError(f"{path}: is {width} wide, no published Stable Diffusion is: name it with --stable_diffusion")
    print(f"{path}: AudioToken's embedder, {width} wide: writing {folder} ...", file=sys.stderr)
    disable_progress_bar()
    with files.atomic_folder(folder) as temporary:
        encoder.save(temporary, embedder, settings)
        if adapters:
            (temporary / encoder.LORA).mkdir()
            save_file(adapters, temporary / encoder.LORA / lora.FILE, {"format": "pt"})
        names = {"file": path.name} | ({"lora": lora_file.name} if lora_file else {})
        files.write_json(temporary / SOURCE_FILE, {"system": "audiotoken"} | names)


def _place(source: str) -> str:
    """A folder of the working directory as an absolute path: in the settings it would be sought in the repository."""
    return str(Path(source).resolve()) if source and Path(source).is_dir() else source


def find(source: Path) -> Path:
    """The embedder's file; of several steps of training the last.

    Raises:
        UserError: there is none.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    for pattern in PATTERNS:
        found = [path for path in source.glob(pattern) if "lora" not in path.name]
        if found:
            return max(found, key=lambda path: (_step(path), path.name))
    names = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise UserError(f"{source}: no {PATTERNS[1]} in it; it holds: {names}")


def _step(path: Path) -> float:
    """1000 of `learned_embeds-1000.bin`; a name without a step is the end of training."""
    found = re.search(r"-(\d+)$", path.stem)
    return int(found[1]) if found else float("inf")


def read(path: Path) -> AudioTokenEmbedder:
    """The network of an official file, in evaluation mode.

    Raises:
        UserError: as `convert`.
    """
    weights = _tensors(path)
    if any(OFFICIAL_LORA.fullmatch(name) for name in weights):
        raise UserError(f"{path}: holds the LoRA of a U-Net, not the embedder: give it with --lora beside that")
    if not {"fc1.weight", "fc2.weight"} <= set(weights):
        raise UserError(f"{path}: not AudioToken's embedder: its weights are {some(weights)}")
    with torch.device("meta"):
        embedder = AudioTokenEmbedder(weights["fc1.weight"].shape[-1], weights["fc2.weight"].shape[0])
    try:
        return fill(embedder, {name: weight.float() for name, weight in weights.items()})
    except ValueError as error:
        raise UserError(f"{path}: not AudioToken's embedder as published: {error}") from error


def read_lora(path: Path) -> dict[str, Tensor]:
    """The adapters of an official file under the names that diffusers, peft and `lora.load` know.

    The old names, without `unet.`, are passed over by diffusers with a line in the log.

    Raises:
        UserError: absent, damaged, or a name that is not the LoRA of a U-Net's attention.
    """
    found: dict[str, Tensor] = {}
    for name, weight in _tensors(path).items():
        match = OFFICIAL_LORA.fullmatch(name.removeprefix(lora.PREFIX))
        if match is None:
            raise UserError(f"{path}: not AudioToken's LoRA: it holds {name}")
        block, layer, half = match.groups()
        layer = "to_out.0" if layer == "to_out" else layer
        found[f"{lora.PREFIX}{block}.{layer}.{HALVES[half]}.weight"] = weight.float().contiguous()
    layers = {name.rpartition(".lora_")[0] for name in found}
    halves = [name for name in layers if len({f"{name}.{half}.weight" for half in HALVES.values()} & set(found)) < 2]
    if halves:
        raise UserError(f"{path}: {halves[0]} has only one of down and up: the file is not whole")
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    content: Any = checkpoint.read(path)
    weights = {str(name).removeprefix("module."): weight for name, weight in content.items()}
    if not weights or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{path}: holds no plain weights; it holds {some(content)}")
    return weights
