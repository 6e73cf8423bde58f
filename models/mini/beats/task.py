"""Training of the miniature BEATs: which kinds are heard, in mixtures of sounds."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.config.mini.beats import BEATsConfig, Config
from sonolume.models.training import optimizer
from sonolume.modules.beats.beats import BEATs
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.scene import KINDS
from sonolume.utils import files

SOURCE_FILE = "source.json"  # beside the weights: what they were trained on


def build(config: BEATsConfig) -> BEATs:
    """A BEATs with a head for the world's kinds and fresh weights."""
    settings = {name: getattr(config, name) for name in BEATsConfig.__dataclass_fields__}
    return BEATs(**settings, predictor_class=len(KINDS), labels=list(KINDS))


class Task(pl.LightningModule):
    """Batches are wave (B, n) and presence (B, K)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(config.train.random_seed)
        self.config = config
        self.beats = build(config.model.beats)

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def forward(self, waves: Tensor) -> Tensor:
        """(B, n) -> logits (B, K)."""
        return self.beats.logits(self.beats(waves)).float()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        waves, wanted = batch
        loss = F.binary_cross_entropy_with_logits(self(waves), wanted)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(waves))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        waves, wanted = batch
        logits = self(waves)
        right = ((logits > 0) == (wanted > 0)).all(1).float().mean()
        values = {"val/loss": F.binary_cross_entropy_with_logits(logits, wanted), "val/all_kinds_right": right}
        self.log_dict(values, prog_bar=True, batch_size=len(waves), sync_dist=True)

    def export(self, folder: Path) -> None:
        """The folder that `BEATs.from_pretrained` reads."""
        self.beats.save_pretrained(folder)
        files.write_json(folder / SOURCE_FILE, {"recipe": self.config.recipe, "world": WORLD})
