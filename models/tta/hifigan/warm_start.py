"""Weights to start from: a trained generator, and the discriminators of an official checkpoint."""

from pathlib import Path
from typing import Any

from torch import nn

from sonolume.config.tta.hifigan import ModelConfig
from sonolume.models.tta.hifigan import model
from sonolume.modules.mel import MelSettings
from sonolume.modules.waveform_discriminators import official_weights
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError


def load(generator: nn.Module, discriminator: nn.Module, config: ModelConfig, settings: MelSettings) -> None:
    """Fill the networks (both still without training) with what the config names; nothing where it names nothing.

    Raises:
        UserError: weights of other sizes, of another mel, or no such file; names the config key.
    """
    if config.pretrained:
        trained = model.load(config.pretrained, "model.pretrained", settings)
        _fill(generator, dict(trained.state_dict()), f"model.pretrained {config.pretrained}", "model.hifigan")
    if config.pretrained_discriminators:
        key = f"model.pretrained_discriminators {config.pretrained_discriminators}"
        given = _official(paths.resolve(config.pretrained_discriminators), key)
        _fill(discriminator, given, key, "model.discriminator")


def _official(path: Path, key: str) -> dict[str, Any]:
    content = checkpoint.read(path)
    if not {"mpd", "msd"} <= content.keys():
        held = ", ".join(map(str, content))[:60]
        raise UserError(f"{key}: holds {held}, not the mpd and msd of an official do_* file")
    return official_weights(content)


def _fill(network: nn.Module, given: dict[str, Any], key: str, section: str) -> None:
    difference = checkpoint.first_difference(given, network.state_dict())
    if difference:
        raise UserError(f"{key}: not of the sizes in {section}: {difference}")
    network.load_state_dict(given)
