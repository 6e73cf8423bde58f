"""Amphion's text-to-audio networks, as published -> diffusers' and transformers' classes.

A training checkpoint holds its weights under "model" and two thirds of it are the optimizer's state; a vocoder's `g_*`
file holds them under "generator". Files are mapped, not read, so what is dropped costs no memory.
"""

import json
import sys
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers.utils.logging
from torch import Tensor
from tqdm import tqdm

from sonolume.config.tta.audioldm import NoiseSchedulerConfig, PredictionType
from sonolume.models.convert import layout
from sonolume.models.tta.audioldm.components import build_unet, noise_settings
from sonolume.models.tta.autoencoderkl import model as autoencoderkl
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.modules import amphion_names, amphion_sizes
from sonolume.modules.mel import MelSettings
from sonolume.utils import checkpoint, files
from sonolume.utils.errors import ConfigError, UserError

SOURCE_FILE = "source.json"  # beside a converted network: where it came from and how it was trained
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
    """A network with what must be known to use it."""

    model: Any  # AutoencoderKL, UNet2DConditionModel or SpeechT5HifiGan, in eval mode
    source: dict[str, Any]  # content of SOURCE_FILE
    mel: dict[str, Any]  # fields of MelSettings, and "frames" of an autoencoder; {} of a U-Net


def convert(network: str, path: Path, folder: Path, config: Path | None = None) -> None:
    """Write one network as a folder of its own.

    Raises:
        UserError: the file is not of this network, damaged, or its config.json does not fit.
    """
    converted = read(network, path, config)
    parameters = sum(weight.numel() for weight in converted.model.parameters())
    print(f"{path}: {KINDS[network]}, {parameters / 1e6:.1f} M weights: writing {folder} ...", file=sys.stderr)
    transformers.utils.logging.disable_progress_bar()
    with files.atomic_folder(folder) as temporary:
        converted.model.save_pretrained(temporary)
        files.write_json(temporary / SOURCE_FILE, converted.source)
        if converted.mel:
            files.write_json(temporary / autoencoderkl.MEL_FILE, converted.mel)


def read(network: str, path: Path, config: Path | None = None) -> Converted:
    """The network of an official file: "vae", "audioldm" or "hifigan".

    Raises:
        UserError: as `convert`.
    """
    content = checkpoint.read(path, mapped=True)
    found, official = identify(path, content)
    if found != network:
        raise UserError(f"{path}: this is {KINDS[found]}, not {KINDS[network]}")
    source: dict[str, Any] = {"system": f"amphion-{network}", "file": path.name}
    step = content.get("step") if isinstance(content.get("step"), int) else layout.step_of(path)
    source |= {"step": step} if step is not None else {}
    readers = {"vae": _read_vae, "audioldm": _read_audioldm, "hifigan": _read_hifigan}
    try:
        return readers[network](path, official, config, source)
    except (ValueError, KeyError, ConfigError) as error:
        message = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not {KINDS[network]} as published: {message}") from error


def identify(path: Path, content: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Which network a checkpoint holds, by its names, and the weights.

    Raises:
        UserError: none of them; says what it is where that is known.
    """
    if "mpd" in content or "msd" in content:
        raise UserError(f"{path}: a vocoder's discriminators (do_*): the generator is in the g_* file beside it")
    if "state_dict" in content and "pytorch-lightning_version" in content:
        raise UserError(f"{path}: a training checkpoint of Lightning: the model of a run is its folder pipeline/")
    weights = content.get("generator", content.get("model", content))
    if not isinstance(weights, dict) or not weights or not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{path}: no weights under 'model' or 'generator'; it holds {some(content)}")
    weights = {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}
    if any(name.startswith("unet.") for name in weights):
        return "audioldm", weights
    if "quant_conv.weight" in weights:
        return "vae", weights
    if any(name.startswith("conv_pre.") for name in weights):
        return "hifigan", weights
    raise UserError(f"{path}: none of Amphion's text-to-audio networks: its weights are {some(weights)}")


def some(content: dict[str, Any]) -> str:
    """The first names of a dictionary, for a message."""
    names = [str(name) for name in content]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"


def _read_vae(path: Path, official: dict[str, Tensor], config: Path | None, source: dict[str, Any]) -> Converted:
    with torch.device("meta"):
        vae = autoencoderkl.build(amphion_sizes.vae_sizes(official))
    mel = asdict(MelSettings()) | {"frames": FRAMES}
    return Converted(fill(vae, amphion_names.vae_weights(official)), source, mel)


def _read_audioldm(path: Path, official: dict[str, Tensor], config: Path | None, source: dict[str, Any]) -> Converted:
    trained = _json(config or path.with_name("args.json"), required=config is not None).get("model", {})
    schedule = trained.get("noise_scheduler", {})
    known = {field.name for field in fields(NoiseSchedulerConfig)}
    noise = NoiseSchedulerConfig(**{name: value for name, value in schedule.items() if name in known})
    with torch.device("meta"):
        unet = build_unet(amphion_sizes.unet_sizes(official, trained.get("audioldm", {}).get("num_heads", 8)))
    objective = str(PredictionType(noise.prediction_type))
    source |= {"objective": objective, "noise": noise_settings(noise), "text_mask": False}
    source |= {"latent": latent} if (latent := layout.latent_of(path)) else {}
    return Converted(fill(unet, amphion_names.unet_weights(official)), source, {})


def _read_hifigan(path: Path, official: dict[str, Tensor], config: Path | None, source: dict[str, Any]) -> Converted:
    beside = path.with_name("config.json")
    settings = _json(config or beside, required=config is not None)
    if not settings:
        print(f"{beside}: not there, the published mel settings are assumed (or give --config FILE)", file=sys.stderr)
    if str(settings.get("resblock", "1")) != "1":
        raise ValueError(f'resblock "{settings["resblock"]}" of its config.json has no counterpart, only "1" has')
    sizes = amphion_sizes.hifigan_sizes(official, settings)
    given = {ours: settings[theirs] for theirs, ours in MEL_KEYS.items() if settings.get(theirs) is not None}
    mel = MelSettings(**given)
    weights = amphion_names.hifigan_weights(official)
    found = {"hop_size": prod(sizes.upsample_rates), "n_mel": len(weights["mean"])}
    for name, value in found.items():
        if value != getattr(mel, name):
            raise ValueError(f"it has {name} {value}, but {getattr(mel, name)} in its mel settings (config.json)")
    with torch.device("meta"):
        vocoder = hifigan.build(sizes, mel)
    return Converted(fill(vocoder, weights), source, asdict(mel))


def fill(model: Any, weights: dict[str, Tensor]) -> Any:
    """Put all weights into a model without any, for evaluation.

    Raises:
        ValueError: a name or shape that does not fit, or values that are not numbers.
    """
    difference = checkpoint.first_difference(weights, model.state_dict())
    if difference:
        raise ValueError(difference)
    for name, tensor in tqdm(weights.items(), desc="reading", unit="tensor", leave=False, delay=1):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not numbers (NaN): its training had diverged")
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _json(path: Path, required: bool) -> dict[str, Any]:
    """Settings beside the weights; {} where there are none."""
    if not path.is_file() and not required:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as json ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not settings")
    return content
