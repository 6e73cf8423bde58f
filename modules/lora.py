"""LoRA files (Hu et al. 2021) of a U-Net: reading them, and merging them into the weights of a network.

The files have the format of diffusers and peft (`unet.{layer}.lora_A.weight`, `.lora_B.weight`). Merging needs no peft,
and a merged network is as fast as before. r rank, i and o inputs and outputs of a layer, k its kernel size.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

FILE = "pytorch_lora_weights.safetensors"  # the name diffusers looks for in a folder
PREFIX = "unet."  # without it diffusers skips every weight and only logs a warning
SETTINGS = "lora_adapter_metadata"  # diffusers' key of peft's settings in the file's header

Weights = dict[str, Tensor]
Rename = Callable[[Weights, Iterable[str]], tuple[Weights, dict[str, float]]]  # with the layers -> alpha by layer


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and header of a safetensors file; raises a ValueError for a cut or damaged one."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: cut, damaged or no safetensors file ({str(error).splitlines()[0]})") from error


@torch.no_grad()
def merge(unet: nn.Module, path: Path, scale: float = 1.0, rename: Rename | None = None) -> dict[str, str]:
    """Merge a file into the weights of a network: W + scale * alpha / r * B A. Several files add up.

    If it fails, nothing is changed.

    Args:
        scale: strength; 0 leaves the weights exactly as they are.
        rename: changes the names of other tools, given the layers of the network.

    Returns:
        The header of the file.

    Raises:
        ValueError: no such file, cut, not a LoRA of a U-Net, or of another network than this one.
    """
    if not math.isfinite(scale):
        raise ValueError(f"the scale of a LoRA must be a finite number, got {scale}")
    if not path.is_file():
        raise ValueError(f"{path}: no {FILE} in it, nor in lora/" if path.is_dir() else f"{path}: no such LoRA file")
    weights, header = read(path)
    layers, alphas = dict(unet.named_modules()), dict[str, float]()
    if rename is not None:
        try:
            weights, alphas = rename(weights, layers)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    pairs, alpha = pair_up(weights, path), read_alpha(header, path)
    for name, (down, up) in pairs.items():
        weight = getattr(layers.get(name), "weight", None)
        if weight is None:
            raise ValueError(f"{path}: belongs to another network: this U-Net has no {name}")
        needed, found = tuple(weight.shape), (up.shape[0], *down.shape[1:])
        if needed != found or up.shape[1] != down.shape[0]:
            message = f"belongs to another network: {name} is {needed} in this U-Net, {found} in the file"
            raise ValueError(f"{path}: {message}")
    if scale == 0:
        return header
    for name, (down, up) in pairs.items():
        weight: Any = layers[name].weight
        strength = alphas.get(name, alpha)
        factor = scale if strength is None else scale * strength / len(down)
        change = (up.flatten(1).float() @ down.flatten(1).float()).view(weight.shape)  # (o, i) or (o, i, k, k)
        weight.copy_(weight.float() + factor * change.to(weight.device))
    return header


def pair_up(weights: dict[str, Tensor], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name -> (A (r, i), B (o, r)), with kernel dimensions (k, k) and (1, 1) for convolutions."""
    if not weights:
        raise ValueError(f"{path}: holds no weights")
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights.items():
        layer, _, kind = name.rpartition(".lora_")
        if not name.startswith(PREFIX) or kind not in ("A.weight", "B.weight"):
            expected = f"'{PREFIX}LAYER.lora_A.weight' or '...lora_B.weight'"
            raise ValueError(f"{path}: not a LoRA of this kind of model: {name!r} is not {expected}")
        pairs.setdefault(layer.removeprefix(PREFIX), {})[kind[0]] = weight
    if halves := [layer for layer, pair in pairs.items() if len(pair) < 2]:
        raise ValueError(f"{path}: {halves[0]} has only one of lora_A and lora_B")
    return {layer: (pair["A"], pair["B"]) for layer, pair in pairs.items()}


def read_alpha(header: dict[str, str], path: Path) -> float | None:
    """Alpha of the factor; None if the header has none, which means alpha = rank (a factor of 1)."""
    try:
        settings = json.loads(header.get(SETTINGS, "{}"))
        unknown = [name for name in ("use_rslora", "use_dora", "alpha_pattern") if settings.get(PREFIX + name)]
        alpha = float(settings[PREFIX + "lora_alpha"]) if PREFIX + "lora_alpha" in settings else None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its header is damaged: {SETTINGS} ({str(error).splitlines()[0]})") from error
    if unknown:
        raise ValueError(f"{path}: {', '.join(unknown)}: a kind of LoRA that cannot be merged here")
    return alpha
