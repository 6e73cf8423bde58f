"""Samples in TensorBoard while a model trains: sounds, spectrograms and pictures, always from the same noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from sonolume.models import sharding
from sonolume.utils.text import markdown

COUNT = 4  # samples of a preview
QUIET, LOUD = float(np.log(1e-5)), 2.0  # ln mel that is drawn black and white


def is_due(task: pl.LightningModule) -> bool:
    """True in the process that writes previews, after the first training step.

    True in all processes if the weights are split over them, as they can only generate together; the others write
    nothing.
    """
    has_part = task.trainer.is_global_zero or sharding.is_sharded(task.trainer)
    return _step(task) > 0 and task.logger is not None and has_part


def log_sounds(
    task: pl.LightningModule, tag: str, waves: Sequence[Tensor], sample_rate: int, captions: Sequence[str] = ()
) -> None:
    """Waves (n,), cut to -1..1, as {tag}/0, {tag}/1 ..., with their captions."""
    for number, wave in enumerate(waves):
        _board(task).add_audio(f"{tag}/{number}", wave.float().clamp(-1, 1).cpu().numpy(), _step(task), sample_rate)
    for number, caption in enumerate(captions):
        _board(task).add_text(f"{tag}/{number}", markdown(caption), _step(task))


def log_spectrograms(task: pl.LightningModule, tag: str, rows: Sequence[Tensor]) -> None:
    """Rows of ln mels (N, M, T) as one image, one row below the other, low frequencies at the bottom of each."""
    lines = [torch.cat(list(row.float().flip(1)), dim=-1) for row in rows]                    # (M, N T)
    image = ((torch.cat(lines).cpu() - QUIET) / (LOUD - QUIET)).clamp(0, 1)
    _board(task).add_image(tag, image[None], _step(task))


def log_pictures(task: pl.LightningModule, tag: str, rows: Sequence[Tensor]) -> None:
    """Rows of pictures (N, 3, H, W) in 0..1 as one image, one row below the other."""
    lines = [torch.cat(list(row.float()), dim=-1) for row in rows]                            # (3, H, N W)
    _board(task).add_image(tag, torch.cat(lines, dim=-2).cpu().clamp(0, 1), _step(task))


def _board(task: pl.LightningModule) -> Any:
    assert task.logger is not None
    return task.logger.experiment  # type: ignore[attr-defined]


def _step(task: pl.LightningModule) -> int:
    """Batches of a GAN, whose `global_step` counts every optimizer; optimizer steps otherwise."""
    return getattr(task, "steps_done", task.global_step)
