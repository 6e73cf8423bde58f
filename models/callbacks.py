"""Lightning callbacks of every run: position, averaged weights, checkpoints and export."""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar, WeightAveraging
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sonolume.config.base import RunConfig
from sonolume.models import card, lightning_internals, sharding
from sonolume.utils import checkpoint
from sonolume.utils.files import TEMPORARY, atomic_folder, naming

STOP_CHECK = 10  # optimizer steps between two collective checks for a signal to any of several processes
REPEAT_SECONDS = 2.0  # within this time a second signal is the same one, forwarded by a launcher


class Stopped(Exception):
    """Training was stopped by a signal, after saving."""

    def __init__(self, by: signal.Signals, batches: int) -> None:
        super().__init__(f"stopped by {by.name} after {batches} batches and saved: continue with --resume")
        self.exit_code = 128 + by


class Position(pl.Callback):
    """Counts finished training batches; part of the checkpoint. First in the list: others read the new count.

    The settings of the order of items are saved with it, unless it is the `EpochOrder`, which has none.
    """

    batches: int = 0
    order: dict[str, Any] | None = None  # None: of a new run, whose order is not built yet

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches} | ({"order": self.order} if self.order else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches, self.order = state_dict["batches"], state_dict.get("order", {})

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        lightning_internals.reopen_epoch(checkpoint)


class DataWait(pl.Callback):
    """Logs "train/data_wait", the share of its time that training waited for the next batch, from 0 to 1.

    The time since the last entry counts, without validation and saving: second in the list, before other callbacks work
    at the end of a batch. The first process measures on its own clock; a GPU may still compute while it waits.
    """

    def __init__(self, position: Position) -> None:
        self.position = position
        self.waited = self.trained = 0.0  # seconds since the last entry
        self._fetched = 0.0  # time of the last fetch

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Iterate over batches and measure the time of each fetch."""
        start = time.perf_counter()
        for batch in batches:
            self._fetched = time.perf_counter()
            self.waited += self._fetched - start
            yield batch
            start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self.trained += time.perf_counter() - self._fetched
        steps, rest = divmod(self.position.batches, trainer.accumulate_grad_batches)
        if rest or steps % trainer.log_every_n_steps:
            return
        share = self.waited / max(self.waited + self.trained, 1e-9)
        for logger in trainer.loggers:
            logger.log_metrics({"train/data_wait": share}, steps - 1)  # the step of the losses that are logged now
        self.waited = self.trained = 0.0


class EMA(WeightAveraging):
    """Exponential moving average of the weights, used for validation and export; one call updates all of them.

    Buffers are not averaged: they are constants, or statistics with a rule of their own, such as codebooks.
    The base class swaps weights and average at the start and the end of a validation epoch; here the end is later, so
    that previews, which tasks log in their own hook of the same name, use the average too.
    """

    def __init__(self, decay: float) -> None:
        self.rule = get_ema_multi_avg_fn(decay)
        super().__init__(use_buffers=False, multi_avg_fn=self.rule)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """As the base class, which warns of every task that has the hook `configure_model`."""
        self._average_model = AveragedModel(pl_module, pl_module.device, multi_avg_fn=self.rule, use_buffers=False)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap later, in `on_validation_end`."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)

    @contextlib.contextmanager
    def averaged(self, trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[None]:
        """Replace the weights of the task by their average inside the block."""
        self.on_validation_epoch_start(trainer, task)
        try:
            yield
        finally:
            self.on_validation_end(trainer, task)


class ShardedAverage:
    """Average of the parts of weights that this process holds, with the methods of `AveragedModel` that are needed."""

    def __init__(self, task: pl.LightningModule, rule: Any) -> None:
        self.weights, self.rule, self.updates = [weight.detach().clone() for weight in task.parameters()], rule, 0
        self.module = self  # whose parameters are the average

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter(self.weights)

    def buffers(self) -> Iterator[torch.Tensor]:
        return iter(())

    @torch.no_grad()
    def update_parameters(self, task: pl.LightningModule) -> None:
        """Average element by element, which is exact: no process needs the parts of another."""
        mine, new = ([weight.to_local() for weight in some] for some in (self.weights, task.parameters()))  # type: ignore[attr-defined]
        if self.updates:
            self.rule(mine, new, self.updates)
        else:
            torch._foreach_copy_(mine, new)
        self.updates += 1


class ShardedEMA(EMA):
    """`EMA` of weights that `sharding.shard` has split over the processes; its checkpoints are those of `EMA`."""

    @property
    def state_key(self) -> str:
        return EMA.__qualname__

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Wait for the weights to be split, see `on_fit_start`."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.shards = ShardedAverage(pl_module, self.rule)
        self._average_model: Any = self.shards

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        with self.averaged(trainer, pl_module):
            average = trainer.strategy.lightning_module_state_dict()
        checkpoint["current_model_state"], checkpoint["state_dict"] = checkpoint["state_dict"], average
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.shards.updates)}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Load the weights; those that the strategy has loaded are the average, if the checkpoint has one."""
        self.shards.weights = [weight.detach().clone() for weight in pl_module.parameters()]
        if "current_model_state" in checkpoint:
            self.shards.updates = int(checkpoint["averaging_state"]["n_averaged"])
            whole = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
            set_model_state_dict(pl_module, checkpoint["current_model_state"], options=whole)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the correct total after a resume; a line for each validation in a log file."""

    def __init__(self, position: Position) -> None:
        super().__init__(refresh_rate=10 if sys.stderr.isatty() else 0)
        self.position = position

    def on_train_start(self, *_: Any) -> None:
        super().on_train_start(*_)
        self.train_progress_bar.reset(total=int(self.trainer.num_training_batches))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        return {name: one for name, one in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self.is_disabled and trainer.is_global_zero:
            losses = ", ".join(f"{name} {loss:.4g}" for name, loss in trainer.progress_bar_metrics.items())
            place = f"batch {self.position.batches} of {trainer.num_training_batches}"
            print(f"{place}: {losses}", file=sys.stderr, flush=True)


class SaveRun(pl.Callback):
    """Writes {run}/checkpoints/last.ckpt, best.ckpt (smallest "val/loss") and the exported folder with its card, all
    atomically.

    Ctrl-C and SIGTERM stop the run after the current optimizer step has been saved; a second one stops at once. If any
    of several processes gets a signal, all stop together at the next multiple of `STOP_CHECK`.

    Between two saves of last.ckpt are `every` optimizer steps, each of `accumulate` batches; checkpoints never contain
    partly accumulated gradients.
    """

    def __init__(self, config: RunConfig, every: int, accumulate: int, position: Position) -> None:
        self.config, self.run_dir = config, config.run_dir
        self.every, self.accumulate, self.position = every, accumulate, position
        self.best = float("inf")
        self.validation: tuple[int, float] | None = None  # step and loss of the last one, for the model card
        self.stopped_by: signal.Signals | None = None
        self._stopped_at = 0.0  # seconds of the monotonic clock
        self._previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = self.run_dir / "checkpoints" / "best.ckpt"  # last.ckpt is written before the validation of its step
        found = checkpoint.read(best)["callbacks"][self.state_key] if best.exists() else state_dict
        self.best = min(found["best"], state_dict["best"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def restore_signals(self) -> None:
        """Restore the previous handlers of Ctrl-C and SIGTERM."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is None:
            self.stopped_by, self._stopped_at = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._stopped_at > REPEAT_SECONDS:
            raise KeyboardInterrupt

    def _must_stop(self, trainer: pl.Trainer, step: int) -> bool:
        if trainer.world_size == 1:
            return self.stopped_by is not None
        if step % STOP_CHECK or not trainer.strategy.reduce_boolean_decision(self.stopped_by is not None, all=False):
            return False
        self.stopped_by = self.stopped_by or signal.SIGTERM  # received by another process
        return True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        done = self.position.batches
        step, rest = divmod(done, self.accumulate)
        if rest:
            return
        stop = self._must_stop(trainer, step)
        if stop or step % self.every == 0 or done == trainer.num_training_batches:
            self._save(trainer, pl_module, "last.ckpt")
        if stop and self.stopped_by is not None:
            raise Stopped(self.stopped_by, done)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        loss = float(trainer.callback_metrics.get("val/loss", float("inf")))
        if math.isfinite(loss):
            self.validation = self.position.batches // self.accumulate, loss
        if loss < self.best and self.position.batches:  # an untrained network is not saved
            self.best = loss
            self._save(trainer, pl_module, "best.ckpt")

    def _save(self, trainer: pl.Trainer, task: Any, name: str) -> None:
        folder = self.run_dir / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{TEMPORARY}{name}"  # the same name in all processes: saving is collective
        try:
            with naming(folder / name):
                trainer.save_checkpoint(unfinished)
            ema = next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)
            average = ema.averaged(trainer, task) if ema else contextlib.nullcontext()
            with average, sharding.whole_weights(trainer, task):
                if trainer.is_global_zero:
                    self._export(trainer, task)
            if trainer.is_global_zero:
                unfinished.replace(folder / name)  # after the export, which a run that is killed here repeats
            trainer.strategy.barrier()  # a launcher takes a process that ends early for a failure
        finally:
            if trainer.is_global_zero:
                unfinished.unlink(missing_ok=True)

    def _export(self, trainer: pl.Trainer, task: Any) -> None:
        with atomic_folder(self.run_dir / task.export_folder) as export:
            task.export(export)
            step = self.position.batches // self.accumulate
            card.write(export, card.Run(self.config, step, trainer.world_size, self.validation))
