"""Names of Amphion's text-to-audio weights -> names in diffusers' and transformers' classes.

Each function takes a whole official state dict, {name: tensor}, and returns it renamed, ready for a strict
`load_state_dict` of the class with the same sizes. An unknown name is a ValueError.
"""

import re

import torch
from torch import Tensor

RESNET = {  # layers of the U-Net's residual blocks
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
UNET_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def vae_weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of Amphion's `AutoencoderKL` for diffusers' `AutoencoderKL`."""
    levels = 1 + max((int(name.split(".")[2]) for name in official if name.startswith("decoder.up.")), default=0)
    return {_vae_name(name, levels): tensor for name, tensor in official.items()}


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
    if re.match(r"(encoder|decoder)\.(conv_in|conv_out|conv_norm_out)\.|(post_)?quant_conv\.", name):
        return name
    if found := re.fullmatch(r"(encoder|decoder)\.mid\.block_([12])\.(.+)", name):
        return f"{found[1]}.mid_block.resnets.{int(found[2]) - 1}.{found[3]}"
    if found := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(.+)", name):
        level = int(found[2]) if found[1] == "encoder.down" else levels - 1 - int(found[2])  # up: from the output side
        layer = found[3].replace("downsample.", "downsamplers.0.").replace("upsample.", "upsamplers.0.")
        return f"{found[1]}_blocks.{level}.{re.sub('^block', 'resnets', layer)}"
    raise ValueError(f"{name}: not a weight of Amphion's autoencoder")


def unet_weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of Amphion's `AudioLDM` (names start with `unet.`) for diffusers' `UNet2DConditionModel`."""
    inner = {name.removeprefix("unet."): tensor for name, tensor in official.items()}
    blocks = [found for name in inner if (found := re.match(r"input_blocks\.(\d+)\.\d+\.(op\.)?", name))]
    downsampling = [int(found[1]) for found in blocks if found[2]]
    # input blocks of a level, including its downsampling
    per_level = min(downsampling, default=1 + max((int(found[1]) for found in blocks), default=0))
    return {_unet_name(name, per_level): tensor for name, tensor in inner.items()}


def _unet_name(name: str, per_level: int) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in UNET_ENDS:
        return f"{UNET_ENDS[stem]}.{leaf}"
    if found := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
        return f"mid_block.{UNET_MIDDLE[found[1]]}.{_unet_layer(found[2])}"
    sides = {"input": ("down", "op.", -1), "output": ("up", "conv.", 0)}  # blocks, resampling layer, offset of conv_in
    if found := re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)", name):
        side, resampling, offset = sides[found[1]]
        level, place = divmod(int(found[2]) + offset, per_level)
        if found[4].startswith(resampling):
            return f"{side}_blocks.{level}.{side}samplers.0.conv.{leaf}"
        kind = "resnets" if found[3] == "0" else "attentions"
        return f"{side}_blocks.{level}.{kind}.{place}.{_unet_layer(found[4])}"
    raise ValueError(f"{name}: not a weight of Amphion's U-Net")


def _unet_layer(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    return f"{RESNET.get(stem, stem)}.{leaf}"


def hifigan_weights(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of Amphion's HiFi-GAN `Generator` for transformers' `SpeechT5HifiGan(normalize_before=False)`.

    Weight norm is folded (weight = g v / |v|, the norm over all but the first dimension). `mean` and `scale`, which the
    class does not use then, are zeros and ones.
    """
    weights = {}
    for name, tensor in official.items():
        stem, _, leaf = re.sub(r"^ups\.", "upsampler.", name).rpartition(".")
        if leaf == "weight_v":
            weights[f"{stem}.weight"] = torch._weight_norm(tensor, official[name.removesuffix("v") + "g"], 0)
        elif leaf != "weight_g":
            weights[f"{stem}.{leaf}"] = tensor
    bands = weights["conv_pre.weight"].shape[1]
    return weights | {"mean": torch.zeros(bands), "scale": torch.ones(bands)}
