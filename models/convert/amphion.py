"""Amphion's text-to-audio networks, as published -> diffusers' and transformers' classes.

A training checkpoint holds its weights under "model", next to the optimizer's state of twice their size; a vocoder's
`g_*` file holds them under "generator".
"""

import sys
from dataclasses import asdict, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.tta.audioldm import NoiseSchedulerConfig, PredictionType
from sonolume.models.convert import amphion_weights, common, layout
from sonolume.models.tta import stored_mel
from sonolume.models.tta.audioldm.components import build_unet, noise_settings
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules.mel import MelSettings
from sonolume.utils import files
from sonolume.utils.errors import ConfigError, UserError

FRAMES = 624  # mel frames of a published clip: 9.984 s
PARTS = {"audioldm": "unet.", "vae": "quant_conv.weight", "hifigan": "conv_pre."}  # of names that only it has
KINDS = {network: common.KINDS[part] for network, part in PARTS.items()}
MEL_KEYS = {"sampling_rate": "sample_rate", "num_mels": "n_mel"} | {
    name: name for name in ("n_fft", "win_size", "hop_size", "fmin", "fmax")
}


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
            files.write_json(temporary / stored_mel.MEL_FILE, converted.mel)


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
                print(f"{settings_file}: not found, {advice}", file=sys.stderr)
            converted = _read_hifigan(weights, settings)
    except (ValueError, KeyError, ConfigError) as error:
        message = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not {KINDS[network]} as published: {message}") from error
    step = content.get("step") if isinstance(content.get("step"), int) else layout.step_of(path)
    source = {"system": f"amphion-{network}", "file": path.name} | ({} if step is None else {"step": step})
    return replace(converted, source=source | converted.source)


def _read_vae(weights: dict[str, Tensor]) -> Converted:
    with torch.device("meta"):
        vae = autoencoderkl.build(amphion_weights.vae_sizes(weights))
    mel = asdict(MelSettings()) | {"frames": FRAMES}
    return Converted(common.fill(vae, amphion_weights.vae_weights(weights)), mel=mel)


def _read_audioldm(weights: dict[str, Tensor], trained: dict[str, Any], latent: str | None) -> Converted:
    schedule, known = trained.get("noise_scheduler", {}), {one.name for one in fields(NoiseSchedulerConfig)}
    noise = NoiseSchedulerConfig(**{name: value for name, value in schedule.items() if name in known})
    with torch.device("meta"):
        unet = build_unet(amphion_weights.unet_sizes(weights, trained.get("audioldm", {}).get("num_heads", 8)))
    objective = str(PredictionType(noise.prediction_type))
    facts = {"objective": objective, "noise": noise_settings(noise), "text_mask": False}
    facts |= {"latent": latent} if latent else {}
    return Converted(common.fill(unet, amphion_weights.unet_weights(weights)), facts)


def _read_hifigan(weights: dict[str, Tensor], settings: dict[str, Any]) -> Converted:
    if str(settings.get("resblock", "1")) != "1":
        raise ValueError(f'resblock "{settings["resblock"]}" of its config.json is not supported, only "1" is')
    sizes = amphion_weights.hifigan_sizes(weights, settings)
    mel = MelSettings(**{ours: settings[key] for key, ours in MEL_KEYS.items() if settings.get(key) is not None})
    renamed = amphion_weights.hifigan_weights(weights)
    for name, value in {"hop_size": prod(sizes.upsample_rates), "n_mel": len(renamed["mean"])}.items():
        if value != getattr(mel, name):
            raise ValueError(f"it has {name} {value}, but {getattr(mel, name)} in its mel settings (config.json)")
    with torch.device("meta"):
        vocoder = hifigan.build(sizes, mel)
    return Converted(common.fill(vocoder, renamed), mel=asdict(mel))
