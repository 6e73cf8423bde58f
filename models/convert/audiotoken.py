"""AudioToken's published embedder, and its LoRA file of an old format -> the folder that a2i/audiotoken exports.

Tested on fabricated files with the names and shapes of embedder_learned_embeds.bin (768 and 1024 wide) and of the LoRA
file that was once published; no published file could be opened.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sonolume.config.audio_to_image import STABLE_DIFFUSION
from sonolume.models import lora
from sonolume.models.a2i.audiotoken import encoder
from sonolume.models.a2i.pipeline import LORA
from sonolume.models.convert import common, layout
from sonolume.modules.audiotoken import AudioTokenEmbedder
from sonolume.utils.errors import UserError

PROMPT = "a photo of <*>, 4k, high resolution"  # of the official inference
WINDOW = 10.0  # seconds of sound in the official inference
PATTERNS = ("*embedder_learned_embeds*.bin", "*learned_embeds*.bin")  # published names; names that training writes
OFFICIAL_LORA = re.compile(r"(.+\.attn[12])\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight")
HALVES = {"down": "lora_A", "up": "lora_B"}


def convert(source: Path, folder: Path, beats: str, stable_diffusion: str | None, lora_file: Path | None) -> None:
    """Convert an embedder to a folder for `run_inference.sh --checkpoint`.

    Args:
        source: the embedder's file, or a folder that holds it.
        beats, stable_diffusion: folders or hub ids that the folder refers to (default: the Stable Diffusion of the
            embedder's width).
        lora_file: the adapters that were trained with it.

    Raises:
        UserError: a file is missing, damaged, of another network, or not as published.
    """
    path = find(source)
    embedder = read(path)
    width = embedder.config.output_size
    adapters = read_lora(lora_file) if lora_file else {}
    stable_diffusion = stable_diffusion or STABLE_DIFFUSION.get(width)
    if not stable_diffusion:
        known = " or ".join(map(str, STABLE_DIFFUSION))
        raise UserError(f"{path}: is {width} wide, not {known}: name its Stable Diffusion with --stable_diffusion")
    # Relative paths in settings start at the repository, those of the command line at the working directory.
    parts = {"stable_diffusion": stable_diffusion, "beats": beats}
    settings = {key: str(Path(part).resolve()) if Path(part).is_dir() else part for key, part in parts.items()}
    facts = {"system": "audiotoken", "file": path.name} | ({"lora": lora_file.name} if lora_file else {})
    with common.converted_folder(folder, path, f"AudioToken's embedder, {width} wide", facts) as temporary:
        encoder.save(temporary, embedder, settings | {"prompt": PROMPT, "window": WINDOW})
        if adapters:
            (temporary / LORA).mkdir()
            save_file(adapters, temporary / LORA / lora.FILE, {"format": "pt"})


def find(source: Path) -> Path:
    """Find the embedder's file; of several training steps the last, where a name without a step is the end."""
    found = layout.find_files(source, *PATTERNS)
    embedders = [path for path in found if "lora" not in path.name] or found
    steps = {path: re.search(r"-(\d+)$", path.stem) for path in embedders}
    return max(embedders, key=lambda path: (int(step[1]) if (step := steps[path]) else float("inf"), path.name))


def read(path: Path) -> AudioTokenEmbedder:
    """Read the network of an official file, in eval mode; raises as `convert`."""
    _, weights = common.read_weights(path)
    if any(OFFICIAL_LORA.fullmatch(name) for name in weights):
        raise UserError(f"{path}: holds the LoRA of a U-Net, not the embedder: give it as --lora")
    if not {"fc1.weight", "fc2.weight"} <= set(weights):
        raise UserError(f"{path}: this is {common.kind_of(weights)}, not AudioToken's embedder")
    with torch.device("meta"):
        embedder = AudioTokenEmbedder(weights["fc1.weight"].shape[-1], weights["fc2.weight"].shape[0])
    try:
        return common.fill(embedder, {name: weight.float() for name, weight in weights.items()})
    except ValueError as error:
        raise UserError(f"{path}: not AudioToken's embedder as published: {error}") from error


def read_lora(path: Path) -> dict[str, Tensor]:
    """Read the adapters of an official file, renamed for diffusers, peft and `lora.load`; raises as `convert`.

    diffusers ignores the old names, without `unet.`, but for a line in the log.
    """
    found: dict[str, Tensor] = {}
    for name, weight in common.read_weights(path)[1].items():
        match = OFFICIAL_LORA.fullmatch(name.removeprefix(lora.PREFIX))
        if match is None:
            raise UserError(f"{path}: not AudioToken's LoRA: it holds {name}")
        block, layer, half = match.groups()
        layer = "to_out.0" if layer == "to_out" else layer
        found[f"{lora.PREFIX}{block}.{layer}.{HALVES[half]}.weight"] = weight.float().contiguous()
    lora.pair_up(found, path)
    return found
