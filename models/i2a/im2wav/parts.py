"""Exported folders of Im2Wav: vqvae/, low/ and up/ as far as they are trained, and the settings of the pipeline.

Every stage exports such a folder: stage vqvae the VQ-VAE, stage low also the Low prior, stage up all three networks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sonolume.config.i2a.im2wav import Config
from sonolume.models import runtime
from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.vqvae import VQVAE
from sonolume.utils import checkpoint, files, paths
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError

RECIPE = "i2a/im2wav"
SETTINGS_FILE = "im2wav.json"  # in an exported folder: recipe, clip, sizes, and defaults of inference
NETWORKS = {"vqvae": VQVAE, "low": LowPrior, "up": UpPrior}
REQUIRED = {  # settings of an exported folder, with their types
    "clip": str, "sample_rate": int, "window": int, "fps": float | int, "guidance_scale": float | int,
    "low_overlap": float | int, "up_overlap": float | int, "mean_over_clip": bool,
}  # fmt: skip
NOT_SIZES = {"decay", "restart_threshold", "scales", "init_scale", "image_dropout"}  # may differ in further training
TRAINED_BY = {"vqvae": "vqvae.json", "low": "low.json", "up": "exp_config.json"}


def settings(config: Config) -> dict[str, Any]:
    """Settings that a pipeline needs besides its networks."""
    model, data = config.model, config.preprocess
    return {
        "clip": model.clip,
        "sample_rate": data.sample_rate,
        "window": data.window,
        "fps": data.fps,
        "guidance_scale": model.guidance_scale,
        "low_overlap": model.low_overlap,
        "up_overlap": model.up_overlap,
        "mean_over_clip": False,
    }


def save(folder: Path, networks: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write an exported folder."""
    for name, network in networks.items():
        network.save_pretrained(folder / name)
    files.write_json(folder / SETTINGS_FILE, {"recipe": RECIPE, **values})


def read_settings(source: str, key: str = "--checkpoint") -> tuple[Path, dict[str, Any]]:
    """Locate an exported folder, downloading it if `source` is a hub id, and read its settings.

    Args:
        key: config key or flag of `source`, for messages.

    Raises:
        UserError: no such folder, not an exported folder of this recipe, or damaged.
    """
    folder, values = runtime.read_settings(source, SETTINGS_FILE, RECIPE, key=key)
    for name, kind in REQUIRED.items():
        if not isinstance(values.get(name), kind):
            found = f"{folder / SETTINGS_FILE}: damaged: {name} is {values.get(name)!r}"
            raise UserError(f"{found}: export or convert the model again")
    return folder, values


def load(folder: Path, name: str, key: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load one frozen network of an exported folder on the CPU, in evaluation mode.

    Raises:
        UserError: the folder lacks the network (the message names the training that makes it), or it is damaged.
    """
    place = folder / name
    if not place.is_dir():
        raise UserError(f"{key} {folder}: has no {name}: {_remedy(name)}")
    network = checkpoint.load_network(NETWORKS[name], str(place.absolute()), key, dtype=dtype)
    network.register_to_config(_name_or_path="")  # strip local paths from exported configs
    return network


def locate(source: str, key: str, name: str) -> Path:
    """Resolve a config key that names an exported folder with the network `name`."""
    return read_settings(paths.locate(source, key, _remedy(name)), key)[0]


def _remedy(name: str) -> str:
    return f"train stage {name} first, with a config such as egs/i2a/im2wav/{TRAINED_BY[name]} or its tiny variant"


def load_vqvae(source: str, key: str) -> VQVAE:
    """Load the VQ-VAE of a config key."""
    return load(locate(source, key, "vqvae"), "vqvae", key)


def load_low(source: str, key: str) -> LowPrior:
    """Load the Low prior of a config key."""
    return load(locate(source, key, "low"), "low", key)


def initialise(network: VQVAE | LowPrior | UpPrior, name: str, source: str) -> None:
    """Copy the weights of the network `name` of the folder `model.init_path` into one of the same sizes.

    Raises:
        UserError: the folder lacks the network, or it has other sizes; the message names the first difference.
    """
    key = "model.init_path"
    stored = load(locate(source, key, name), name, key)
    for field in sorted(set(network.config) - NOT_SIZES):
        if not field.startswith("_") and stored.config[field] != network.config[field]:
            raise UserError(f"{key} {source}: its {name} has {field} {stored.config[field]}, "
                            f"the config makes {network.config[field]}: choose the same sizes")  # fmt: skip
    network.load_state_dict(stored.state_dict())


def check_tokens(folder: Path, source: str, key: str, vqvae: VQVAE, other: str) -> None:
    """Check that the priors of the exported folder of a config key were trained on the tokens of a VQ-VAE.

    Args:
        other: where this VQ-VAE is from, for the message.

    Raises:
        UserError: they were trained on others.
    """
    own = load(folder, "vqvae", key) if (folder / "vqvae").is_dir() else vqvae
    if tokens_hash(own) != tokens_hash(vqvae):
        raise UserError(f"{key} {source}: was trained on another VQ-VAE than {other}: "
                        "choose the one that it was trained on")  # fmt: skip


def check_agreement(source: str, key: str, values: Mapping[str, Any]) -> None:
    """Check that the settings of the exported folder of a config key have the given values where it has them.

    Raises:
        UserError: it was trained with others; the message names the first difference.
    """
    stored = read_settings(paths.locate(source, key), key)[1]
    for name, value in values.items():
        if stored.get(name, value) != value:
            raise UserError(f"{key} {source}: was trained with {name} {stored[name]}, this run has {value}: "
                            "the networks of a model share them")  # fmt: skip


def rates(hops: list[int]) -> list[int]:
    """Upsampling factors from coarse to fine tokens: twos as far as possible, as published."""
    ratio, factors = hops[1] // hops[0], []
    while ratio > 1:
        factors.append(2 if ratio % 2 == 0 else ratio)
        ratio //= factors[-1]
    return factors


def tokens_hash(vqvae: VQVAE) -> str:
    """Hash of the weights that decide the tokens of a sound: the encoders and the codes, not the decoders."""
    weights = vqvae.state_dict().items()
    return content_hash([weight for name, weight in weights if name.startswith("encoders.") or name.endswith(".codes")])
