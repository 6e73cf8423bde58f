"""Training of a text encoder of the miniature world: kinds, counts, attributes and order are read out of its states."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from sonolume.config.base import TrainConfig
from sonolume.models.mini.text_encoder.data import STEPS, Captions
from sonolume.models.training import optimizer
from sonolume.modules.caption_reader import CaptionReader, CaptionReading
from sonolume.preprocessors.miniworld.scene import KINDS


class ReadingTask(pl.LightningModule):
    """An encoder (tokens, attention_mask) -> states of `width`, and the heads that read them."""

    def __init__(self, encoder: PreTrainedModel, width: int, train: TrainConfig) -> None:
        super().__init__()
        self.encoder: PreTrainedModel = encoder
        self.train_config = train
        self.reader = CaptionReader(width, len(KINDS), STEPS)

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.train_config)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def forward(self, batch: Captions) -> CaptionReading:
        states = self.encoder(batch.tokens, attention_mask=batch.mask).last_hidden_state  # (B, L, D)
        return self.reader(states, batch.mask)

    def training_step(self, batch: Captions, batch_index: int) -> Tensor:
        losses = self._losses(self(batch), batch)
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def _losses(self, reading: CaptionReading, batch: Captions) -> dict[str, Tensor]:
        losses = {"activity": 4 * F.binary_cross_entropy_with_logits(reading.activity, batch.activity)}
        for name, logits in reading.slots.items():
            losses[name] = F.cross_entropy(logits.flatten(0, 1), batch.slots[name].flatten(), ignore_index=-1)
        return losses

    def validation_step(self, batch: Captions, batch_index: int) -> None:
        reading, size = self(batch), len(batch.tokens)
        self.log("val/loss", torch.stack(list(self._losses(reading, batch).values())).sum(), batch_size=size)
        kinds = (reading.slots["kind"].argmax(-1) == batch.slots["kind"]).all(dim=1)  # (B,) both in their order
        for name, relation in (("one", 0), ("then", 1), ("over", 2)):
            chosen = kinds[batch.slots["relation"][:, 0] == relation].float()
            if len(chosen):
                self.log(f"val/kinds_{name}", chosen.mean(), prog_bar=True, batch_size=len(chosen))
