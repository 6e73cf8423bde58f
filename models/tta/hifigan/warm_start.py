"""Pretrained weights of the vocoder's training: a generator, and the discriminators of an official checkpoint."""

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
    """Load the weights that the config names, if any, into the new networks.

    Raises:
        UserError: no such file, or weights of other sizes or other mels; names the config key.
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
        found = ", ".join(map(str, content))[:60]
        raise UserError(f"{key}: holds {found}, not the mpd and msd of an official do_* file")
    return official_weights(content)


def _fill(network: nn.Module, given: dict[str, Any], key: str, section: str) -> None:
    difference = checkpoint.first_difference(given, network.state_dict())
    if difference:
        raise UserError(f"{key}: its sizes differ from {section}: {difference}")
    network.load_state_dict(given)
