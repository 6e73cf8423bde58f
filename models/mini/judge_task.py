"""Training of a judge, of sounds or of pictures: one loss for each thing that it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.config.base import TrainConfig
from sonolume.models.mini.truth import IGNORE
from sonolume.models.training import optimizer, step_generator
from sonolume.modules.judges import Judge, PictureJudgement, SoundJudgement

Judgement = SoundJudgement | PictureJudgement
Smear = Callable[[Tensor, torch.Generator], Tensor]  # real inputs -> as blurred and noisy as generated ones may be
WEIGHTS = {
    "presence": 4.0, "activity": 2.0, "repeats": 0.5, "pitch": 0.25, "loudness": 0.25, "direction": 0.25,
    "layout": 0.25, "panels": 0.25,
}  # fmt: skip


def losses(judgement: Judgement, truth: Judgement) -> dict[str, Tensor]:
    """The mean loss of each field; 0 where every truth in the batch is `IGNORE`."""
    return {
        name: _binary(logits, wanted) if wanted.is_floating_point() else _classes(logits, wanted)
        for name, logits, wanted in zip(judgement._fields, judgement, truth, strict=True)
    }


def _binary(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted)


def _classes(logits: Tensor, wanted: Tensor) -> Tensor:
    """cross_entropy's own mean is not a number when all are ignored."""
    total = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (wanted != IGNORE).sum().clamp(min=1)


class JudgeTask(pl.LightningModule):
    """A judge, its settings of training, and what blurs its inputs. Batches are (inputs, truth)."""

    def __init__(self, judge: Judge, train: TrainConfig, smear: Smear) -> None:
        super().__init__()
        self.judge, self.train_config, self.smear = judge, train, smear

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.judge.parameters(), self.train_config)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def _loss(self, inputs: Tensor, truth: Judgement, stage: str) -> Tensor:
        parts = losses(self.judge(inputs), truth)
        total = sum((WEIGHTS[name] * part for name, part in parts.items()), torch.zeros((), device=inputs.device))
        named = {f"{stage}/{name}": part for name, part in parts.items()}
        self.log_dict(named, batch_size=len(inputs), sync_dist=stage == "val")
        self.log(f"{stage}/loss", total, prog_bar=True, batch_size=len(inputs), sync_dist=stage == "val")
        return total

    def training_step(self, batch: tuple[Tensor, Judgement], batch_index: int) -> Tensor:
        inputs, truth = batch
        random = step_generator(self.train_config.random_seed, self.global_step, self.global_rank)
        return self._loss(self.smear(inputs, random), truth, "train")

    def validation_step(self, batch: tuple[Tensor, Judgement], batch_index: int) -> None:
        self._loss(*batch, "val")

    def export(self, folder: Path) -> None:
        """The folder that `from_pretrained` of the judge reads."""
        self.judge.save_pretrained(folder)


def uniform(like: Tensor, low: float, high: float, random: torch.Generator) -> Tensor:
    """One number for each item of a batch, in the shape that broadcasts over it."""
    shape = (len(like), *(1,) * (like.ndim - 1))
    return (low + (high - low) * torch.rand(shape, generator=random)).to(like)


def noise(like: Tensor, random: torch.Generator) -> Tensor:
    """Standard normal."""
    return torch.randn(like.shape, generator=random).to(like)


def blur(images: Tensor) -> Tensor:
    """(B, C, H, W): each pixel becomes the mean of its 3 x 3 neighbourhood."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
