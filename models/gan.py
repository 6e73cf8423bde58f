"""Manual optimization with several optimizers, as GANs need it; Lightning then neither clips nor accumulates."""

from typing import Any

from sonolume.models.training import RecipeTask


class ManualOptimization(RecipeTask):
    """Base of a task that steps its optimizers itself: accumulation, clipping, schedules and the count of batches."""

    sharding_obstacle = "the recipe trains several networks in turns"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.automatic_optimization = False
        self.steps_done = 0  # finished batches; part of the checkpoint

    @property
    def optimizer_step_index(self) -> int:
        """Number of the optimizer step that this batch belongs to, from 0."""
        return self.steps_done // self.config.train.accumulate

    def clip_and_step(self, optimizer: Any) -> None:
        """Clip and step one of `self.optimizers()`, at the last batch of an accumulation."""
        if (self.steps_done + 1) % self.config.train.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip here, where a precision with scaled gradients, such as 16-mixed, has unscaled them."""
        if self.config.train.gradient_clip:
            self.clip_gradients(optimizer, self.config.train.gradient_clip, "norm")

    def end_batch(self) -> None:
        """Count the batch, and step the learning rates at the end of an accumulation."""
        self.steps_done += 1
        if self.steps_done % self.config.train.accumulate == 0:
            for rate in self.lr_schedulers():  # type: ignore[union-attr]
                rate.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps_done"] = self.steps_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["steps_done"]
