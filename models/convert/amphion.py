"""Amphion's text-to-audio networks, as published -> diffusers' and transformers' classes.

A training checkpoint holds its weights under "model", next to the optimizer's state of twice their size; a vocoder's
`g_*` file holds them under "generator".

`*_weights` renames a whole official state dict for a strict `load_state_dict` of the class with the same sizes; an
unknown name is a ValueError. `*_sizes` derives the sizes from the shapes; a missing tensor is a ValueError. Not in the
shapes, but as published: 32 groups in every GroupNorm, 8 attention heads, dilations 1, 3, 5.
"""

import re
from dataclasses import asdict, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.tta.audioldm import AudioLDMConfig, NoiseSchedulerConfig, PredictionType
from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
from sonolume.config.tta.hifigan import HifiGanConfig
from sonolume.models.convert import common, layout
from sonolume.models.tta.audioldm.components import build_unet, noise_settings
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.features import MEL_FILE
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules.mel import MelSettings
from sonolume.utils import files, text
from sonolume.utils.errors import ConfigError, UserError

FRAMES = 624  # mel frames of a published clip: 9.984 s
PARTS = {"audioldm": "unet.", "vae": "quant_conv.weight", "hifigan": "conv_pre."}  # of names that only it has
KINDS = {network: common.KINDS[part] for network, part in PARTS.items()}
MEL_KEYS = {"sample_rate": "sampling_rate", "n_mel": "num_mels"}  # official names that differ from `MelSettings`
RESNET = {  # layers of the U-Net's residual blocks
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
UNET_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
DILATIONS = [1, 3, 5]


@dataclass
class Converted:
    """A converted network in eval mode."""

    model: Any  # AutoencoderKL, UNet2DConditionModel or SpeechT5HifiGan
    source: dict[str, Any] = field(default_factory=dict)  # its official file, and how a U-Net was trained
    mel: dict[str, Any] = field(default_factory=dict)  # fields of MelSettings, and "frames" of an autoencoder


def convert(network: str, path: Path, folder: Path, config: Path | None = None) -> None:
    """Convert one network to a folder of its own; see `read`."""
    converted = read(network, path, config)
    what = f"{KINDS[network]}, {common.count_weights(converted.model)}"
    with common.converted_folder(folder, path, what, converted.source) as temporary:
        converted.model.save_pretrained(temporary)
        if converted.mel:
            files.write_json(temporary / MEL_FILE, converted.mel)


def read(network: str, path: Path, config: Path | None = None) -> Converted:
    """Read a network ("vae", "audioldm" or "hifigan") from its official file.

    Args:
        config: its official settings (default: args.json or config.json next to the file, if it exists).

    Raises:
        UserError: the file is of another network or damaged, or its settings do not fit.
    """
    content, weights = common.read_weights(path)
    if common.kind_of(weights) != KINDS[network]:
        raise UserError(f"{path}: this is {common.kind_of(weights)}, not {KINDS[network]}")
    settings_file = config or path.with_name("config.json" if network == "hifigan" else "args.json")
    settings = {}
    if network != "vae" and (config or settings_file.is_file()):
        settings = files.read_json(settings_file, "the official settings")
    try:
        if network == "vae":
            converted = _read_vae(weights)
        elif network == "audioldm":
            converted = _read_audioldm(weights, settings.get("model", {}), layout.latent_of(path))
        else:
            if not settings:
                advice = "assuming the published mel settings (or give --config FILE)"
                text.message(f"{settings_file}: not found, {advice}")
            converted = _read_hifigan(weights, settings)
    except (ValueError, KeyError, ConfigError) as error:
        message = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not {KINDS[network]} as published: {message}") from error
    step = content.get("step") if isinstance(content.get("step"), int) else layout.step_of(path)
    source = {"system": f"amphion-{network}", "file": path.name} | ({} if step is None else {"step": step})
    return replace(converted, source=source | converted.source)


def _read_vae(weights: dict[str, Tensor]) -> Converted:
    with torch.device("meta"):
        vae = autoencoderkl.build(vae_sizes(weights))
    mel = asdict(MelSettings()) | {"frames": FRAMES}
    return Converted(common.fill(vae, vae_weights(weights)), mel=mel)


def _read_audioldm(weights: dict[str, Tensor], trained: dict[str, Any], latent: str | None) -> Converted:
    schedule, known = trained.get("noise_scheduler", {}), {one.name for one in fields(NoiseSchedulerConfig)}
    noise = NoiseSchedulerConfig(**{name: value for name, value in schedule.items() if name in known})
    with torch.device("meta"):
        unet = build_unet(unet_sizes(weights, trained.get("audioldm", {}).get("num_heads", 8)))
    objective = str(PredictionType(noise.prediction_type))
    facts = {"objective": objective, "noise": noise_settings(noise), "text_mask": False}
    facts |= {"latent": latent} if latent else {}
    return Converted(common.fill(unet, unet_weights(weights)), facts)


def _read_hifigan(weights: dict[str, Tensor], settings: dict[str, Any]) -> Converted:
    if str(settings.get("resblock", "1")) != "1":
        raise ValueError(f'resblock "{settings["resblock"]}" of its config.json is not supported, only "1" is')
    sizes = hifigan_sizes(weights, settings)
    named = {one.name: settings.get(MEL_KEYS.get(one.name, one.name)) for one in fields(MelSettings)}
    mel = MelSettings(**{name: value for name, value in named.items() if value is not None})
    renamed = hifigan_weights(weights)
    for name, value in {"hop_size": prod(sizes.upsample_rates), "n_mel": len(renamed["mean"])}.items():
        if value != getattr(mel, name):
            raise ValueError(f"it has {name} {value}, but {getattr(mel, name)} in its mel settings (config.json)")
    with torch.device("meta"):
        vocoder = hifigan.build(sizes, mel)
    return Converted(common.fill(vocoder, renamed), mel=asdict(mel))


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
    channels, in_channels, *_ = _shape(official, "unet.input_blocks.0.0.weight")
    levels, num_res_blocks = _unet_levels(official)
    first_blocks = [f"unet.input_blocks.{1 + level * (num_res_blocks + 1)}" for level in range(levels)]
    text_layer = next((name for name in official if name.endswith(".attn2.to_k.weight")), "attn2.to_k.weight")
    return AudioLDMConfig(
        in_channels=in_channels,
        out_channels=_shape(official, "unet.out.2.weight")[0],
        model_channels=channels,
        attention_resolutions=[2**i for i, block in enumerate(first_blocks) if f"{block}.1.norm.weight" in official],
        num_res_blocks=num_res_blocks,
        channel_mult=[_shape(official, f"{block}.0.in_layers.2.weight")[0] // channels for block in first_blocks],
        num_heads=num_heads,
        transformer_depth=_count(official, r"unet\.middle_block\.1\.transformer_blocks\.(\d+)\."),
        context_dim=_shape(official, text_layer)[1],
        use_checkpoint=False,
    )


def _unet_levels(official: dict[str, Tensor]) -> tuple[int, int]:
    """Count the levels of a U-Net and the residual blocks of each; it also has a downsampling, or conv_in."""
    levels = 1 + sum(name.endswith(".op.weight") for name in official)
    return levels, _count(official, r"unet\.input_blocks\.(\d+)\.") // levels - 1


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
