"""Training of the miniature text encoder: read kinds, counts, attributes and their order out of its states."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from sonolume.config.mini.text_encoder import Config, TextEncoderConfig
from sonolume.models.mini.text_encoder.data import STEPS, Captions
from sonolume.models.training import optimizer
from sonolume.modules.caption_reader import CaptionReader, CaptionReading
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.scene import KINDS

MAX_BYTES = 512  # of one text, as T5


def build(config: TextEncoderConfig) -> T5EncoderModel:
    """A T5 encoder (gated GELU, relative positions) on ByT5's 384 tokens, with fresh weights."""
    t5 = T5Config(
        vocab_size=384,
        d_model=config.d_model,
        d_kv=config.d_model // config.num_heads,
        d_ff=config.d_ff,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        relative_attention_max_distance=64,
    )
    t5.world = WORLD
    return T5EncoderModel(t5)


class Task(pl.LightningModule):
    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(config.train.random_seed)
        self.config = config
        self.encoder = build(config.model.text_encoder)
        self.reader = CaptionReader(config.model.text_encoder.d_model, len(KINDS), STEPS)

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
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

    def export(self, folder: Path) -> None:
        """transformers' T5EncoderModel and ByT5Tokenizer in one folder."""
        self.encoder.save_pretrained(folder)
        ByT5Tokenizer(model_max_length=MAX_BYTES).save_pretrained(folder)
