"""The vocoder as a folder: transformers' `SpeechT5HifiGan` with the mel settings beside it."""

import functools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sonolume.config.tta.hifigan import HifiGanConfig
from sonolume.modules.mel import MelSettings
from sonolume.utils import checkpoint, files, hub
from sonolume.utils.errors import UserError, first_line

MEL_FILE = "mel.json"  # fields of MelSettings


def build(config: HifiGanConfig, settings: MelSettings) -> SpeechT5HifiGan:
    """The published generator in transformers' class, with fresh weights, without weight norm."""
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
    """The same function with plain weights; the class's own method cannot remove the norms it applies."""
    plain = SpeechT5HifiGan(vocoder.config)
    weights = {name: functools.reduce(getattr, name.split("."), vocoder) for name in plain.state_dict()}
    plain.load_state_dict(weights)
    return plain.to(vocoder.dtype)  # type: ignore[arg-type]  # transformers hides its signature


def save(vocoder: SpeechT5HifiGan, folder: Path, settings: MelSettings) -> None:
    """Write weights (safetensors), config and mel settings."""
    without_weight_norm(vocoder).save_pretrained(folder)
    files.write_json(folder / MEL_FILE, asdict(settings))


def load(
    source: str,
    key: str,
    settings: MelSettings | None = None,
    remedy: str = "",
    dtype: torch.dtype = torch.float32,
) -> SpeechT5HifiGan:
    """A vocoder from its folder, a pipeline folder that holds one, or a hub id.

    Args:
        key: the config key or flag that `source` came from, for the message.
        settings: refuse a vocoder of other mel settings. They are read from its mel.json or its pipeline's
            model_index.json; where there is none, as in folders of others, its config tells bands, sample rate and hop.
        remedy: what else can be done when it is not there.

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
    """What is known of the mels that a vocoder takes: all fields of MelSettings, or bands, sample rate and hop.

    Args:
        located: its folder, the pipeline folder that holds it, or a hub id.

    Raises:
        UserError: the file of the settings is broken.
    """
    for name, key in ((MEL_FILE, None), ("model_index.json", "mel")):
        stored = Path(located) / name
        if hub.is_local(located) and stored.is_file():
            facts = _read_json(stored)
            return facts.get(key, {}) if key else facts
    config = vocoder.config
    hop = math.prod(config.upsample_rates)
    return {"n_mel": config.model_in_dim, "sample_rate": config.sampling_rate, "hop_size": hop}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: broken JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings")
    return content


def vocode(vocoder: nn.Module, mel: Tensor) -> Tensor:
    """ln mel (B, M, T) -> wave (B, T * hop) in -1..1."""
    return vocoder(mel.transpose(1, 2)).reshape(len(mel), -1)
