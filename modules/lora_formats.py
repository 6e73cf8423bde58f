"""LoRA files of other tools: their names of weights, changed to those of diffusers and peft.

diffusers and peft write `unet.{layer}.lora_A.weight` and `.lora_B.weight`; kohya's scripts, the LCM-LoRAs of the hub
and most collections `lora_unet_{layer with _ for .}.lora_down.weight`, `.lora_up.weight` and `.alpha`; older versions
of diffusers `unet.{layer}.lora.down.weight`, or `unet.{attention}.processor.to_q_lora.down.weight`.
r rank, i and o inputs and outputs of a layer.
"""

import re
from collections.abc import Iterable

from torch import Tensor

KOHYA = "lora_unet_"
OTHER_NETWORKS = ("lora_te", "text_encoder")  # beginnings of the names of weights that are not the U-Net's
HALVES = {"lora_down": "lora_A", "lora.down": "lora_A", "lora_up": "lora_B", "lora.up": "lora_B"}
OLD_ATTENTION = re.compile(r"\.processor\.(to_[qkv]|to_out)_lora\.")

Weights = dict[str, Tensor]


def to_peft(weights: Weights, layers: Iterable[str]) -> tuple[Weights, dict[str, float]]:
    """Rename LoRA weights of a U-Net -> weights by peft's names, and alpha by layer where the file has it.

    Weights of a text encoder are left out, unless there are no others. Names of no known format stay as they are.

    Args:
        weights: A (r, i) and B (o, r) of layers, with kernel dimensions for convolutions, and scalars alpha.
        layers: names of the U-Net's layers, from which kohya's names are made.

    Raises:
        ValueError: a kohya name belongs to no layer, or an alpha is no scalar.
    """
    ours = {name: weight for name, weight in weights.items() if not name.startswith(OTHER_NETWORKS)} or weights
    by_kohya_name = {name.replace(".", "_"): name for name in layers}
    renamed: Weights = {}
    alphas: dict[str, float] = {}
    for name, weight in ours.items():
        layer, kind = _split(_modern(name))
        if layer.startswith(KOHYA):
            if (found := by_kohya_name.get(layer.removeprefix(KOHYA))) is None:
                raise ValueError(f"belongs to another network: this U-Net has no {layer.removeprefix(KOHYA)}")
            layer = f"unet.{found}"
        if kind == "alpha":
            if weight.numel() != 1:
                raise ValueError(f"damaged: {name} is {tuple(weight.shape)}, not one number")
            alphas[layer.removeprefix("unet.")] = weight.item()
        else:
            renamed[f"{layer}.{kind}" if layer else name] = weight
    return renamed, alphas


def _modern(name: str) -> str:
    """A name of older diffusers, with its attention layers as today."""
    found = OLD_ATTENTION.sub(lambda match: f".{match[1].replace('to_out', 'to_out.0')}.lora.", name)
    return f"unet.{found}" if found != name and not found.startswith("unet.") else found


def _split(name: str) -> tuple[str, str]:
    """Split a name into the layer's, and "lora_A.weight", "lora_B.weight", "alpha", or whatever follows."""
    if name.endswith(".alpha"):
        return name.removesuffix(".alpha"), "alpha"
    for old, new in HALVES.items():
        if name.endswith(f".{old}.weight"):
            return name.removesuffix(f".{old}.weight"), f"{new}.weight"
    layer, _, kind = name.rpartition(".lora_")
    return (layer, f"lora_{kind}") if layer else ("", name)
