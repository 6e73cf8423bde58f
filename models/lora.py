"""LoRA of the U-Net (Hu et al. 2021): small trained matrices next to frozen weights, saved in a file of their own.

The file has the format of diffusers and peft (`unet.{layer}.lora_A.weight`, `.lora_B.weight`). Training needs peft;
`load` merges the matrices into the weights itself, so using a file needs no peft and costs no time.
r rank, i and o inputs and outputs of a layer, k its kernel size.
"""

import copy
import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sonolume.config.base import LoraConfig
from sonolume.utils import cache, files
from sonolume.utils.errors import UserError, first_line

FILE = "pytorch_lora_weights.safetensors"  # the name diffusers looks for in a folder
PREFIX = "unet."  # without it diffusers skips every weight and only logs a warning
SETTINGS = "lora_adapter_metadata"  # diffusers' key of peft's settings in the file's header
LAYERS = {  # ends of the names of diffusers' layers
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "feedforward": ["ff.net.0.proj", "ff.net.2"],
    "convolution": ["conv1", "conv2", "conv_shortcut"],
}


def add(unet: UNet2DConditionModel, config: LoraConfig) -> nn.ModuleDict:
    """Freeze `unet`, insert adapters that change nothing yet, and return them (with shared weights).

    Raises:
        UserError: the U-Net has no layer of `config.targets`.
    """
    import peft  # an extra

    wanted = [name for target in config.targets for name in LAYERS[str(target)]]
    unet.requires_grad_(False)
    try:
        unet.add_adapter(peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=wanted))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"model.lora.targets: {first_line(error)}") from error
    adapters, layers = nn.ModuleDict(), [(name, one) for name, one in unet.named_modules() if hasattr(one, "lora_A")]
    for name, layer in layers:
        adapters[name.replace(".", "/")] = nn.ModuleDict({"lora_A": layer.lora_A, "lora_B": layer.lora_B})
    return adapters


def save(unet: UNet2DConditionModel, path: Path, config: LoraConfig, base: str) -> None:
    """Write the adapters of `unet`, whole or not at all; the file's header names `base`, which was fine-tuned."""
    from peft.utils import get_peft_model_state_dict

    weights = {name: weight.float().cpu().contiguous() for name, weight in get_peft_model_state_dict(unet).items()}
    targets = sorted({name.rpartition(".lora_")[0] for name in weights})
    settings = {"r": config.rank, "lora_alpha": config.alpha, "target_modules": targets}
    header = {
        "format": "pt", "rank": str(config.rank), "alpha": str(config.alpha), "base_model": base,
        "sonolume_version": importlib.metadata.version("sonolume"),
        SETTINGS: json.dumps({PREFIX + name: value for name, value in settings.items()}),
    }  # fmt: skip
    with files.atomic_path(path) as unfinished:
        save_file({PREFIX + name: weight for name, weight in weights.items()}, unfinished, header)


def merged(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Copy a U-Net with adapters, and merge these into the weights of the copy."""
    found: Any = copy.deepcopy(unet)
    found.fuse_lora()
    found.unload_lora()
    return found


def base_hash(unet: UNet2DConditionModel) -> str:
    """Content hash of the frozen weights that the adapters were trained with."""
    return cache.content_hash(*(weight for name, weight in unet.named_parameters() if ".lora_" not in name))


@torch.no_grad()
def load(pipe: Any, path: Path, scale: float = 1.0) -> None:
    """Merge a LoRA file into the U-Net of a pipeline: W + scale * alpha / r * B A. Several files add up.

    The merged weights are saved by `save_pretrained`. If loading fails, nothing is changed.

    Args:
        path: a safetensors file, a folder that holds `FILE`, or the folder of a run of `run_finetune.sh`.
        scale: strength; 0 leaves the weights exactly as they are.

    Raises:
        UserError: no such file, cut, not a LoRA of a U-Net, or of another network than this one.
    """
    path = next((one for one in (path / FILE, path / "lora" / FILE) if one.is_file()), path)
    if not math.isfinite(scale):
        raise UserError(f"the scale of a LoRA must be a finite number, got {scale}")
    if not path.is_file():
        raise UserError(f"{path}: no {FILE} in it, nor in lora/" if path.is_dir() else f"{path}: no such LoRA file")
    try:
        with safe_open(path, "pt") as file:
            weights, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: cut, damaged or no safetensors file ({first_line(error)})") from error
    pairs, alpha = pair_up(weights, path), _alpha(header, path)
    layers = dict(pipe.unet.named_modules())
    for name, (down, up) in pairs.items():
        weight = getattr(layers.get(name), "weight", None)
        if weight is None:
            raise UserError(f"{path}: belongs to another network: this U-Net has no {name}")
        needed, found = tuple(weight.shape), (up.shape[0], *down.shape[1:])
        if needed != found or up.shape[1] != down.shape[0]:
            message = f"belongs to another network: {name} is {needed} in this U-Net, {found} in the file"
            raise UserError(f"{path}: {message}")
    if scale == 0:
        return
    for name, (down, up) in pairs.items():
        weight = layers[name].weight
        factor = scale if alpha is None else scale * alpha / len(down)
        change = (up.flatten(1).float() @ down.flatten(1).float()).view(weight.shape)  # (o, i) or (o, i, k, k)
        weight.copy_(weight.float() + factor * change.to(weight.device))


def pair_up(weights: dict[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name -> (A (r, i), B (o, r)), with kernel dimensions (k, k) and (1, 1) for convolutions."""
    if not weights:
        raise UserError(f"{path}: holds no weights")
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".lora_")
        if not name.startswith(PREFIX) or kind not in ("A.weight", "B.weight"):
            expected = f"'{PREFIX}LAYER.lora_A.weight' or '...lora_B.weight'"
            raise UserError(f"{path}: not a LoRA of this kind of model: {name!r} is not {expected}")
        pairs.setdefault(layer.removeprefix(PREFIX), {})[kind[0]] = weight
    if halves := [layer for layer, pair in pairs.items() if len(pair) < 2]:
        raise UserError(f"{path}: {halves[0]} has only one of lora_A and lora_B")
    return {layer: (pair["A"], pair["B"]) for layer, pair in pairs.items()}


def _alpha(header: dict[str, str], path: Path) -> float | None:
    """Alpha of the factor; None if the header has none, which means alpha = rank (a factor of 1)."""
    try:
        settings = json.loads(header.get(SETTINGS, "{}"))
        unknown = [name for name in ("use_rslora", "use_dora", "alpha_pattern") if settings.get(PREFIX + name)]
        if unknown:
            raise UserError(f"{path}: {', '.join(unknown)}: a kind of LoRA that cannot be merged here")
        return float(settings[PREFIX + "lora_alpha"]) if PREFIX + "lora_alpha" in settings else None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its header is damaged: {SETTINGS} ({first_line(error)})") from error
