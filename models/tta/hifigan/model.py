"""The vocoder: transformers' `SpeechT5HifiGan`, saved with its mel settings."""

import functools
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sonolume.config.tta.hifigan import HifiGanConfig
from sonolume.models.tta.features import check_mel, save_with_mel, stored_mel
from sonolume.modules.mel import MelSettings
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError


def build(config: HifiGanConfig, settings: MelSettings) -> SpeechT5HifiGan:
    """Build the published generator with fresh weights, without weight norm."""
    shape = {name: value for name, value in asdict(config).items() if name != "weight_norm"}
    names = {"model_in_dim": settings.n_mel, "sampling_rate": settings.sample_rate, "normalize_before": False}
    return SpeechT5HifiGan(SpeechT5HifiGanConfig(**shape, **names))


def save(vocoder: SpeechT5HifiGan, folder: Path, settings: MelSettings) -> None:
    """Write weights (safetensors) with weight norm folded, config and mel settings."""
    plain = SpeechT5HifiGan(vocoder.config)  # a copy: the class's own method cannot remove the norms it applies
    weights = {name: functools.reduce(getattr, name.split("."), vocoder) for name in plain.state_dict()}
    plain.load_state_dict(weights)
    save_with_mel(plain.to(vocoder.dtype), folder, asdict(settings))  # type: ignore[arg-type]  # hidden signature


def load(
    source: str, key: str, settings: MelSettings | None = None, remedy: str = "", dtype: torch.dtype = torch.float32
) -> SpeechT5HifiGan:
    """Load a vocoder from its folder, a pipeline folder or a hub id.

    Args:
        key: config key or flag of `source`, for messages.
        settings: mel settings that the vocoder must have, as far as its own are known (see `mel_facts`).
        remedy: advice for a missing folder.

    Raises:
        UserError: it cannot be loaded, or takes other mels.
    """
    vocoder = checkpoint.load_network(SpeechT5HifiGan, source, key, "vocoder", remedy, dtype)
    if settings:
        check_mel(mel_facts(vocoder, paths.locate(source, key)), settings, f"{key} {source}: a vocoder")
    return vocoder


def fill(network: nn.Module, weights: dict[str, Any], key: str, section: str) -> None:
    """Load weights; raises a UserError if they do not fit the network that `section` of the config describes."""
    difference = checkpoint.first_difference(weights, network.state_dict())
    if difference:
        raise UserError(f"{key}: its sizes differ from {section}: {difference}")
    network.load_state_dict(weights)


def mel_facts(vocoder: SpeechT5HifiGan, located: str) -> dict[str, Any]:
    """Known mel settings of a vocoder: the ones stored in `located`, or bands, sample rate and hop of its config."""
    config, hop = vocoder.config, math.prod(vocoder.config.upsample_rates)
    known = {"n_mel": config.model_in_dim, "sample_rate": config.sampling_rate, "hop_size": hop}
    return stored_mel(located) or known


def vocode(vocoder: nn.Module, mel: Tensor) -> Tensor:
    """ln mel (B, M, T) -> wave (B, T * hop) in -1..1."""
    return vocoder(mel.transpose(1, 2)).reshape(len(mel), -1)
