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
from sonolume.models.tta import stored_mel
from sonolume.modules.mel import MelSettings
from sonolume.utils import checkpoint, files, hub
from sonolume.utils.errors import UserError, first_line


def build(config: HifiGanConfig, settings: MelSettings) -> SpeechT5HifiGan:
    """Build the published generator with fresh weights, without weight norm."""
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=settings.n_mel,
            sampling_rate=settings.sample_rate,
            upsample_initial_channel=config.upsample_initial_channel,
            upsample_rates=list(config.upsample_rates),
            upsample_kernel_sizes=list(config.upsample_kernel_sizes),
            resblock_kernel_sizes=list(config.resblock_kernel_sizes),
            resblock_dilation_sizes=[list(row) for row in config.resblock_dilation_sizes],
            leaky_relu_slope=config.leaky_relu_slope,
            normalize_before=False,
        )
    )


def without_weight_norm(vocoder: SpeechT5HifiGan) -> SpeechT5HifiGan:
    """Copy a vocoder with its weight norm folded; the class's own method cannot remove the norms it applies."""
    plain = SpeechT5HifiGan(vocoder.config)
    weights = {name: functools.reduce(getattr, name.split("."), vocoder) for name in plain.state_dict()}
    plain.load_state_dict(weights)
    return plain.to(vocoder.dtype)  # type: ignore[arg-type]  # transformers hides its signature


def save(vocoder: SpeechT5HifiGan, folder: Path, settings: MelSettings) -> None:
    """Write weights (safetensors), config and mel settings."""
    without_weight_norm(vocoder).save_pretrained(folder)
    files.write_json(folder / stored_mel.MEL_FILE, asdict(settings))


def load(
    source: str,
    key: str,
    settings: MelSettings | None = None,
    remedy: str = "",
    dtype: torch.dtype = torch.float32,
) -> SpeechT5HifiGan:
    """Load a vocoder from its folder, a pipeline folder or a hub id.

    Args:
        key: config key or flag of `source`, for messages.
        settings: raise for a vocoder of other mel settings, as far as they are known (see `mel_facts`).
        remedy: advice for a missing folder.

    Raises:
        UserError: it cannot be loaded, or takes other mels.
    """
    located = hub.locate(source, key, remedy)
    where = hub.inside(located, "vocoder")
    if hub.is_local(where):
        checkpoint.check_folder(Path(where), "SpeechT5HifiGan")
    try:
        vocoder = SpeechT5HifiGan.from_pretrained(where, dtype=dtype).eval().requires_grad_(False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{key} {source}: cannot be loaded: {first_line(error)}") from error
    if settings is not None:
        _check(mel_facts(vocoder, located), settings, f"{key} {source}")
    return vocoder


def _check(found: dict[str, Any], settings: MelSettings, name: str) -> None:
    known = [(field, found.get(field, value), value) for field, value in asdict(settings).items()]
    wrong = [f"{field} {theirs}, not {ours}" for field, theirs, ours in known if theirs != ours]
    if wrong:
        raise UserError(f"{name}: a vocoder of other mel settings: {'; '.join(wrong)}")


def mel_facts(vocoder: SpeechT5HifiGan, located: str) -> dict[str, Any]:
    """Known mel settings of a vocoder: the stored ones, or bands, sample rate and hop of its config.

    Args:
        located: its folder, the pipeline folder that holds it, or a hub id.

    Raises:
        UserError: the file of the settings is broken.
    """
    config = vocoder.config
    hop = math.prod(config.upsample_rates)
    known = {"n_mel": config.model_in_dim, "sample_rate": config.sampling_rate, "hop_size": hop}
    return stored_mel.read(located) or known


def vocode(vocoder: nn.Module, mel: Tensor) -> Tensor:
    """ln mel (B, M, T) -> wave (B, T * hop) in -1..1."""
    return vocoder(mel.transpose(1, 2)).reshape(len(mel), -1)
