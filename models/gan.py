"""Manual optimization with several optimizers, as GANs need it; Lightning then neither clips nor accumulates."""

from typing import Any

import pytorch_lightning as pl

from sonolume.config.base import TrainConfig


class ManualOptimization(pl.LightningModule):
    """Base of a task that steps its optimizers itself: accumulation, clipping, schedules and the count of batches."""

    def __init__(self, train: TrainConfig) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.train_config = train
        self.steps_done = 0  # finished batches; part of the checkpoint

    @property
    def optimizer_step_index(self) -> int:
        """Number of the optimizer step that this batch belongs to, from 0."""
        return self.steps_done // self.train_config.accumulate

    def clip_and_step(self, optimizer: Any) -> None:
        """Clip and step one of `self.optimizers()`, at the last batch of an accumulation."""
        if (self.steps_done + 1) % self.train_config.accumulate == 0:
            if self.train_config.gradient_clip:
                self.clip_gradients(optimizer, self.train_config.gradient_clip, "norm")
            optimizer.step()
            optimizer.zero_grad()

    def end_batch(self) -> None:
        """Count the batch, and step the learning rates at the end of an accumulation."""
        self.steps_done += 1
        if self.steps_done % self.train_config.accumulate == 0:
            for rate in self.lr_schedulers():  # type: ignore[union-attr]
                rate.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps_done"] = self.steps_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["steps_done"]
