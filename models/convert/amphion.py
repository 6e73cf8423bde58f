"""Amphion's text-to-audio networks, as published -> diffusers' and transformers' classes.

A training checkpoint holds its weights under "model", next to the optimizer's state of twice their size; a vocoder's
`g_*` file holds them under "generator". Files are memory-mapped, so what is dropped costs no memory.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.tta.audioldm import NoiseSchedulerConfig, PredictionType
from sonolume.models.convert import common, layout
from sonolume.models.tta import stored_mel
from sonolume.models.tta.audioldm.components import build_unet, noise_settings
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules import amphion_names, amphion_sizes
from sonolume.modules.mel import MelSettings
from sonolume.utils import checkpoint, files
from sonolume.utils.errors import ConfigError, UserError

FRAMES = 624  # mel frames of a published clip: 9.984 s
KINDS = {
    "vae": "Amphion's autoencoder (amphion-vae)",
    "audioldm": "Amphion's U-Net (amphion-audioldm)",
    "hifigan": "a HiFi-GAN generator (amphion-hifigan)",
}
MEL_KEYS = {"sampling_rate": "sample_rate", "num_mels": "n_mel"} | {
    name: name for name in ("n_fft", "win_size", "hop_size", "fmin", "fmax")
}


@dataclass
class Converted:
    """A converted network in eval mode."""

    model: Any  # AutoencoderKL, UNet2DConditionModel or SpeechT5HifiGan
    source: dict[str, Any]  # its official file, and how a U-Net was trained
    mel: dict[str, Any]  # fields of MelSettings, and "frames" of an autoencoder; {} of a U-Net


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
    content = checkpoint.read(path, mapped=True)
    found, official = identify(path, content)
    if found != network:
        raise UserError(f"{path}: this is {KINDS[found]}, not {KINDS[network]}")
    try:
        model, facts, mel = READERS[network](official, path, config)
    except (ValueError, KeyError, ConfigError) as error:
        message = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not {KINDS[network]} as published: {message}") from error
    step = content.get("step") if isinstance(content.get("step"), int) else layout.step_of(path)
    source = {"system": f"amphion-{network}", "file": path.name} | ({} if step is None else {"step": step})
    return Converted(model, source | facts, mel)


def identify(path: Path, content: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Identify the network of a checkpoint by the names of its weights, and return both; another is a UserError."""
    if "mpd" in content or "msd" in content:
        raise UserError(f"{path}: a vocoder's discriminators (do_*): the generator is in the g_* file of that folder")
    if "state_dict" in content and "pytorch-lightning_version" in content:
        raise UserError(f"{path}: {common.LIGHTNING}")
    weights = content.get("generator", content.get("model", content))
    if not common.is_weights(weights):
        raise UserError(f"{path}: no weights under 'model' or 'generator'; it holds {common.first_names(content)}")
    weights = common.strip_module(weights)
    if any(name.startswith("unet.") for name in weights):
        return "audioldm", weights
    if "quant_conv.weight" in weights:
        return "vae", weights
    if any(name.startswith("conv_pre.") for name in weights):
        return "hifigan", weights
    raise UserError(f"{path}: none of Amphion's text-to-audio networks: its weights are {common.first_names(weights)}")


Parts = tuple[Any, dict[str, Any], dict[str, Any]]  # model, facts for source.json, mel settings


def _read_vae(official: dict[str, Tensor], path: Path, config: Path | None) -> Parts:
    with torch.device("meta"):
        vae = autoencoderkl.build(amphion_sizes.vae_sizes(official))
    return common.fill(vae, amphion_names.vae_weights(official)), {}, asdict(MelSettings()) | {"frames": FRAMES}


def _read_audioldm(official: dict[str, Tensor], path: Path, config: Path | None) -> Parts:
    trained = _settings(config, path.with_name("args.json")).get("model", {})
    schedule, known = trained.get("noise_scheduler", {}), {field.name for field in fields(NoiseSchedulerConfig)}
    noise = NoiseSchedulerConfig(**{name: value for name, value in schedule.items() if name in known})
    with torch.device("meta"):
        unet = build_unet(amphion_sizes.unet_sizes(official, trained.get("audioldm", {}).get("num_heads", 8)))
    objective = str(PredictionType(noise.prediction_type))
    facts: dict[str, Any] = {"objective": objective, "noise": noise_settings(noise), "text_mask": False}
    if latent := layout.latent_of(path):
        facts["latent"] = latent
    return common.fill(unet, amphion_names.unet_weights(official)), facts, {}


def _read_hifigan(official: dict[str, Tensor], path: Path, config: Path | None) -> Parts:
    default = path.with_name("config.json")
    settings = _settings(config, default)
    if not settings:
        print(f"{default}: not found, assuming the published mel settings (or give --config FILE)", file=sys.stderr)
    if str(settings.get("resblock", "1")) != "1":
        raise ValueError(f'resblock "{settings["resblock"]}" of its config.json is not supported, only "1" is')
    sizes = amphion_sizes.hifigan_sizes(official, settings)
    mel = MelSettings(**{ours: settings[key] for key, ours in MEL_KEYS.items() if settings.get(key) is not None})
    weights = amphion_names.hifigan_weights(official)
    for name, value in {"hop_size": prod(sizes.upsample_rates), "n_mel": len(weights["mean"])}.items():
        if value != getattr(mel, name):
            raise ValueError(f"it has {name} {value}, but {getattr(mel, name)} in its mel settings (config.json)")
    with torch.device("meta"):
        vocoder = hifigan.build(sizes, mel)
    return common.fill(vocoder, weights), {}, asdict(mel)


READERS: dict[str, Callable[[dict[str, Tensor], Path, Path | None], Parts]] = {
    "vae": _read_vae, "audioldm": _read_audioldm, "hifigan": _read_hifigan,
}  # fmt: skip


def _settings(given: Path | None, default: Path) -> dict[str, Any]:
    """Read official settings; {} if none are given and there are none next to the weights."""
    path = given or default
    return files.read_json(path, "the official settings") if given or path.is_file() else {}
