"""Lightning callbacks of every run: where it stands, its average weights, its checkpoints and its exported folder."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging, TQDMProgressBar

from sonolume.utils import checkpoint
from sonolume.utils.files import TEMPORARY, atomic_folder, naming

ASK_EVERY = 10  # optimizer steps after which several processes ask each other whether one was told to stop
REPEATED = 2.0  # seconds within which a launcher passes the same Ctrl-C or SIGTERM on once more


class Stopped(Exception):
    """Training was asked to stop by a signal and has saved itself."""

    def __init__(self, by: signal.Signals, batches: int) -> None:
        super().__init__(f"stopped by {by.name} after {batches} batches and saved: continue with --resume")
        self.exit_code = 128 + by


class Position(pl.Callback):
    """Counts finished training batches; part of the checkpoint. First in the list, so that others read it updated."""

    batches: int = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A finished run goes on when max_steps was raised: its last batch is not the last one now."""
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


class EMA(EMAWeightAveraging):
    """Exponential moving average of the weights, used for validation and export."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Not yet: the task's own hook of this name, which comes next, previews the average."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)

    @contextlib.contextmanager
    def averaged(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[None]:
        """The task's weights are the average inside this context."""
        self.on_validation_epoch_start(trainer, task)
        try:
            yield
        finally:
            self.on_validation_end(trainer, task)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar for training, which knows its total also after a resume."""

    def on_train_start(self, *_: Any) -> None:
        super().on_train_start(*_)
        self.train_progress_bar.reset(total=int(self.trainer.num_training_batches))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class FirstValidation(pl.Callback):
    """Logs "val/loss" before the first step of a new run, where its curve begins. Last in the list."""

    def __init__(self, position: Position) -> None:
        self.position = position

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.position.batches:
            return
        trainer.validating = True  # as Lightning's own loop does before it validates
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True


class SaveRun(pl.Callback):
    """Writes {run}/checkpoints/last.ckpt, best.ckpt (smallest "val/loss") and {run}/pipeline/, each by renaming.

    Ctrl-C and SIGTERM are noted and obeyed after the optimizer step, after saving. A second one stops at once. Several
    processes stop together, at the next step that `ASK_EVERY` divides, when one of them was told to.

    Args:
        every: optimizer steps between two writings of last.ckpt.
        accumulate: batches of one optimizer step; gradients of a part of them are in no checkpoint.
    """

    def __init__(self, run_dir: Path, every: int, accumulate: int, position: Position) -> None:
        self.run_dir, self.every, self.accumulate, self.position = run_dir, every, accumulate, position
        self.best = float("inf")
        self.stopped_by: signal.Signals | None = None
        self._told = 0.0  # when, in seconds of the monotonic clock
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = self.run_dir / "checkpoints" / "best.ckpt"  # last.ckpt is written before the validation of its step
        found = checkpoint.read(best)["callbacks"][self.state_key] if best.exists() else state_dict
        self.best = min(found["best"], state_dict["best"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in self._previous:
            signal.signal(number, self._note)

    def restore_signals(self) -> None:
        """Give Ctrl-C and SIGTERM back to whom they belonged."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by, self._told = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._told > REPEATED:
            raise KeyboardInterrupt

    def _must_stop(self, trainer: pl.Trainer, step: int) -> bool:
        if trainer.world_size == 1:
            return self.stopped_by is not None
        if step % ASK_EVERY or not trainer.strategy.reduce_boolean_decision(self.stopped_by is not None, all=False):
            return False
        self.stopped_by = self.stopped_by or signal.SIGTERM  # told to another process
        return True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = self.position.batches
        if done % self.accumulate:
            return
        step = done // self.accumulate
        stop = self._must_stop(trainer, step)
        if stop or step % self.every == 0 or done == trainer.num_training_batches:
            self._save(trainer, pl_module, "last.ckpt")
        if stop and self.stopped_by is not None:
            raise Stopped(self.stopped_by, done)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("val/loss", float("inf")))
        if loss < self.best and self.position.batches:  # an untrained network is not worth a file
            self.best = loss
            self._save(trainer, pl_module, "best.ckpt")

    def _save(self, trainer: pl.Trainer, task: Any, name: str) -> None:
        folder = self.run_dir / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{TEMPORARY}{name}"  # one name for all processes: saving is a collective call
        try:
            with naming(folder / name):
                trainer.save_checkpoint(unfinished)
            if trainer.is_global_zero:
                unfinished.replace(folder / name)
                self._export(trainer, task)
            trainer.strategy.barrier()  # a process that ends early would be taken for a failure by its launcher
        finally:
            if trainer.is_global_zero:
                unfinished.unlink(missing_ok=True)

    def _export(self, trainer: pl.Trainer, task: Any) -> None:
        ema = next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)
        weights = ema.averaged(trainer, task) if ema else contextlib.nullcontext()
        with weights, atomic_folder(self._exported(task)) as folder:
            task.export(folder)

    def _exported(self, task: Any) -> Path:
        return self.run_dir / getattr(task, "export_folder", "pipeline")
