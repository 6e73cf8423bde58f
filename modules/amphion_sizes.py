"""Sizes of Amphion's text-to-audio networks, derived from the shapes of their weights.

Not in the shapes, but as published: 32 groups in every GroupNorm, 8 attention heads, dilations 1, 3, 5. Each function
takes a whole official state dict and raises a ValueError that names the first missing tensor.
"""

import re
from typing import Any

from torch import Tensor

from sonolume.config.tta.audioldm import AudioLDMConfig
from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
from sonolume.config.tta.hifigan import HifiGanConfig

DILATIONS = [1, 3, 5]


def vae_sizes(official: dict[str, Tensor]) -> AutoencoderKLConfig:
    """Derive the sizes of `AutoencoderKL` (names such as `encoder.down.0.block.0.conv1.weight`)."""
    ch, in_channels, *_ = _shape(official, "encoder.conv_in.weight")
    levels = _count(official, r"encoder\.down\.(\d+)\.")
    return AutoencoderKLConfig(
        ch=ch,
        ch_mult=[_shape(official, f"encoder.down.{i}.block.0.conv1.weight")[0] // ch for i in range(levels)],
        num_res_blocks=_count(official, r"encoder\.down\.0\.block\.(\d+)\."),
        in_channels=in_channels,
        out_ch=_shape(official, "decoder.conv_out.weight")[0],
        z_channels=_shape(official, "decoder.conv_in.weight")[1],
    )


def unet_sizes(official: dict[str, Tensor], num_heads: int = 8) -> AudioLDMConfig:
    """Derive the sizes of `AudioLDM` (names start with `unet.`)."""
    inner = {name.removeprefix("unet."): tensor for name, tensor in official.items()}
    channels, in_channels, *_ = _shape(inner, "input_blocks.0.0.weight")
    levels = 1 + sum(name.endswith(".op.weight") for name in inner)
    per_level = _count(inner, r"input_blocks\.(\d+)\.") // levels  # residual blocks and the downsampling (or conv_in)
    first_blocks = [f"input_blocks.{1 + level * per_level}" for level in range(levels)]
    text_layer = next((name for name in inner if name.endswith(".attn2.to_k.weight")), "attn2.to_k.weight")
    return AudioLDMConfig(
        in_channels=in_channels,
        out_channels=_shape(inner, "out.2.weight")[0],
        model_channels=channels,
        attention_resolutions=[2**i for i, block in enumerate(first_blocks) if f"{block}.1.norm.weight" in inner],
        num_res_blocks=per_level - 1,
        channel_mult=[_shape(inner, f"{block}.0.in_layers.2.weight")[0] // channels for block in first_blocks],
        num_heads=num_heads,
        transformer_depth=_count(inner, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        context_dim=_shape(inner, text_layer)[1],
        use_checkpoint=False,
    )


def hifigan_sizes(official: dict[str, Tensor], settings: dict[str, Any]) -> HifiGanConfig:
    """Derive the sizes of HiFi-GAN's `Generator` (resblock "1") with the `settings` of its official config.json.

    Without them, kernels have twice the size of the upsampling rates and dilations are 1, 3, 5, as published.
    """
    kernels = [_weight_shape(official, f"ups.{i}")[2] for i in range(_count(official, r"ups\.(\d+)\."))]
    per_stage = _count(official, r"resblocks\.(\d+)\.") // max(1, len(kernels))
    dilations = DILATIONS[: _count(official, r"resblocks\.0\.convs1\.(\d+)\.")]
    return HifiGanConfig(
        upsample_rates=settings.get("upsample_rates", [kernel // 2 for kernel in kernels]),
        upsample_kernel_sizes=kernels,
        upsample_initial_channel=_weight_shape(official, "conv_pre")[0],
        resblock_kernel_sizes=[_weight_shape(official, f"resblocks.{i}.convs1.0")[2] for i in range(per_stage)],
        resblock_dilation_sizes=settings.get("resblock_dilation_sizes", [dilations] * per_stage),
    )


def _weight_shape(official: dict[str, Tensor], layer: str) -> tuple[int, ...]:
    """Return the shape of a layer's weight, which weight norm stores as `weight_v`."""
    return _shape(official, f"{layer}.weight" if f"{layer}.weight" in official else f"{layer}.weight_v")


def _shape(official: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in official:
        raise ValueError(f"it has no {name}")
    return tuple(official[name].shape)


def _count(official: dict[str, Tensor], pattern: str) -> int:
    """Count layers: one more than the largest index that a pattern finds in the names."""
    return 1 + max((int(found[1]) for name in official if (found := re.match(pattern, name))), default=-1)
