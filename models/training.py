"""Training of every recipe with Lightning: exact resume in the middle of an epoch, export at every save.

The random numbers of a step are drawn from (seed, step) and the order of items from (seed, epoch), so that a resumed
run equals an unbroken one, and several processes compute the same as one process with the same global batch.
"""

import copy
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from sonolume.config.base import MODEL_PARALLEL, EvaluationConfig, LRSchedule, RunConfig, TrainConfig
from sonolume.models import data_order, launch, lightning_internals, sharding
from sonolume.models.callbacks import EMA, DataWait, Position, ProgressBar, SaveRun, ShardedEMA, Stopped
from sonolume.models.data_order import Order
from sonolume.models.precision import usable
from sonolume.models.recipes import recipe_code
from sonolume.utils import checkpoint, files, paths
from sonolume.utils.cache import content_hash, locked
from sonolume.utils.errors import LostProcessError, UserError, first_line
from sonolume.utils.text import message

FUSED_DEVICES = ("cpu", "cuda")  # where AdamW's fused kernel is used, if all weights are floating-point

Draw = Callable[[int, torch.Generator], Tensor]  # (number of items, generator) -> a row of random numbers for each


@dataclasses.dataclass
class TrainingData:
    """Data sets of a recipe and the function that batches their items.

    `train` may have methods for the order of its items, the first two in the order of its indices:
    `shard_rows()`, the number of items of each shard (S,), of which training then reads few at a time; and
    `dataset_sizes()`, the number of items of each entry of `dataset`, for `train.dataset_weights`. Without the latter,
    the data sets are those of its manifest rows `rows`, if it has one for each item. `prefetch(order)` returns an
    object whose method `at(position)` is called before each step, such as `Prefetch`.
    """

    train: Dataset[Any]  # indexed by (epoch, index)
    valid: Dataset[Any]
    collate: Callable[[list[Any]], Any] = default_collate

    @classmethod
    def of(cls, make: Callable[[str], Dataset[Any]], collate: Callable[[list[Any]], Any] = default_collate) -> Self:
        """Make the data sets of the splits "train" and "valid"."""
        return cls(make("train"), make("valid"), collate)


class StepBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for the steps from `start` to `steps`, in the order of a run.

    The processes of a distributed run share each global batch: together they train on the items that one process with
    `world * batch_size` items would.

    Args:
        before_step: called with the position of each step, such as `Prefetch.at`.
    """

    def __init__(
        self, order: Order, batch_size: int, steps: int, start: int = 0, rank: int = 0, world: int = 1,
        before_step: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.order, self.batch_size, self.steps = order, batch_size, steps
        self.start, self.rank, self.world, self.before_step = start, rank, world, before_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            if self.before_step:
                self.before_step(first)
            yield [self.order.item(first + offset) for offset in range(self.batch_size)]

    def __len__(self) -> int:
        return self.steps


class TimedLoader(DataLoader[Any]):
    """A data loader that measures how long training waits for each batch."""

    def __init__(self, items: Dataset[Any], wait: DataWait, **options: Any) -> None:
        super().__init__(items, **options)
        self.wait = wait

    def __iter__(self) -> Any:
        return self.wait.timed(super().__iter__())  # which starts the workers now, not with the first batch


class Loaders(pl.LightningDataModule):
    """Data loaders that start at the position of the checkpoint; `valid_batches` are lists of items (0, index).

    Every process validates on all items: the mean over processes with unequal shares is not the mean over items.
    """

    def __init__(
        self, data: TrainingData, config: TrainConfig, datasets: Sequence[str], position: Position, wait: DataWait
    ) -> None:
        super().__init__()
        self.data, self.config, self.datasets, self.position, self.wait = data, config, datasets, position, wait
        items, size = [(0, index) for index in range(len(data.valid))], config.batch_size  # type: ignore[arg-type]
        self.valid_batches = [items[start : start + size] for start in range(0, len(items), size)]

    def _options(self) -> dict[str, Any]:
        workers = self.config.num_workers
        return {"num_workers": workers, "persistent_workers": workers > 0, "collate_fn": self.data.collate}

    def _order(self) -> Order:
        """Build the order of the run, that of its checkpoint if it is resumed, and save it with the position."""
        weights = self.config.dataset_weights
        shards = data_order.count_rows(self.data.train, self.datasets, len(weights) > 1)
        order = data_order.make_order(shards, weights, self.config.random_seed, self.position.order)
        self.position.order = order.settings()
        return order

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        steps = self.config.max_steps * self.config.accumulate
        place = (self.position.batches, self.trainer.global_rank, self.trainer.world_size)
        order, prefetch = self._order(), getattr(self.data.train, "prefetch", None)
        before_step = prefetch(copy.deepcopy(order)).at if prefetch else None
        batches = StepBatches(order, self.config.batch_size, steps, *place, before_step)
        return TimedLoader(self.data.train, self.wait, batch_sampler=batches, **self._options())

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data.valid, batch_sampler=self.valid_batches, **self._options())


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Build the generator of one training step; on the CPU, so that all devices draw the same numbers."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def step_draws(seed: int, step: int, batch: int, rank: int = 0, world: int = 1) -> Callable[[Draw], Tensor]:
    """Random numbers of one training batch: `draws(draw)` returns the `batch` rows of this process.

    The rows of the whole global batch are drawn, so that they do not depend on the number of processes.
    """
    random, rows = step_generator(seed, step), slice(rank * batch, (rank + 1) * batch)
    return lambda draw: draw(world * batch, random)[rows]


def training_draws(task: pl.LightningModule, count: int, batch_index: int) -> Callable[[Draw], Tensor]:
    """`step_draws` of a training batch of `count` items of this process; `task.config.train` holds the seed."""
    seed = task.config.train.random_seed  # type: ignore[union-attr]
    return step_draws(seed, batch_index, count, task.global_rank, task.trainer.world_size)


def validation_draws(task: pl.LightningModule, batch_index: int) -> Callable[[Draw], Tensor]:
    """Random numbers of a validation batch: each item has its own, the same at every validation and in every batch."""
    items = task.trainer.datamodule.valid_batches[batch_index]  # type: ignore[attr-defined]
    randoms = [step_generator(0, index) for _, index in items]
    return lambda draw: torch.cat([draw(1, random) for random in randoms])


def gather_rows(task: pl.LightningModule, values: Tensor) -> Tensor:
    """Gather the rows of all processes in training, with gradient; in validation, every process has all items."""
    if not task.trainer.training or task.trainer.world_size == 1:
        return values
    gathered: Any = task.all_gather(values, sync_grads=values.requires_grad)
    if gathered.requires_grad:  # torch sends a gradient of permuted strides to the wrong places
        gathered.register_hook(torch.Tensor.contiguous)
    return gathered.flatten(0, 1)


@contextmanager
def seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed the global random numbers, which dropout and SpecAugment draw, inside the block; restore them after it.

    Args:
        generator: its first seed is used, such as that of `step_generator`.
        device: also its random numbers are seeded.
    """
    seed, numpy_state = generator.initial_seed(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


class Frozen(dict[str, Any]):
    """Networks used without training, outside the module tree of a task: not in checkpoints, shared by deep copies."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        return self


def optimizer(
    parameters: Iterable[Tensor], config: TrainConfig, start: int = 0
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Build AdamW and its schedule: linear warm-up, then constant, a cosine to zero, or a line to `final_lr`.

    AdamW updates all weights in one fused call where torch can; a resumed run keeps the kind that it began with.
    Training of these parameters and their warm-up begin at the optimizer step `start`; the cosine and the line span the
    whole run and end at max_steps.
    """
    adam, schedule, parameters = config.adam, config.lr_schedule, list(parameters)
    betas = (adam.betas[0], adam.betas[1])
    fused = all(one.is_floating_point() and one.device.type in FUSED_DEVICES for one in parameters)
    adamw = torch.optim.AdamW(parameters, adam.lr, betas, adam.eps, adam.weight_decay, fused=fused or None)
    lightning_internals.allow_clipping(adamw)
    after = max(1, config.max_steps - config.warmup_steps)  # steps after the warm-up

    def rate(step: int) -> float:
        trained = max(0, step - start + 1)  # steps, with this one
        if schedule is LRSchedule.linear:
            done = max(0, step + 1 - config.warmup_steps) / after
            warm = min(1.0, trained / max(1, config.warmup_steps))
            return warm * max(0.0, 1 - (1 - config.final_lr / adam.lr) * done)
        warm = min(1.0, trained / (config.warmup_steps + 1))
        if schedule is LRSchedule.constant:
            return warm
        done = min(1.0, max(0, step - config.warmup_steps) / after)
        return warm * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())

    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, rate)


class RecipeTask(pl.LightningModule):
    """Base of the tasks that train all their parameters with one AdamW.

    Checkpoints contain the hash of the frozen weights, and a run resumes with the same ones only.
    """

    export_folder = "pipeline"  # inside the folder of the run
    frozen_keys: tuple[str, ...] = ()  # in config.model, of the frozen networks on which the trained weights depend
    sharding_obstacle = ""  # reason why the weights of such a task cannot be split over processes

    def __init__(self, config: Any, frozen: Frozen | None = None) -> None:
        super().__init__()
        self.config, self.frozen = config, frozen or Frozen()

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def configure_model(self) -> None:
        """Split the weights over all processes if `train.strategy` asks for it."""
        if sharding.is_sharded(self.trainer):
            sharding.shard(self)

    def log_losses(self, stage: str, losses: Mapping[str, Tensor], count: int) -> None:
        """Log the losses of a batch of `count` items as {stage}/{name}; the stages are "train" and "val"."""
        for name, loss in losses.items():
            self.log(f"{stage}/{name}", loss, prog_bar=name == "loss", batch_size=count, sync_dist=True)

    def frozen_weights(self) -> Iterable[Any]:
        """Weights of the networks that `frozen_keys` name, any content of `content_hash`."""
        return ()

    def _frozen_hash(self) -> str:
        if "hash" not in self.frozen:
            self.frozen["hash"] = content_hash(*self.frozen_weights())
        return self.frozen["hash"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.frozen_keys:
            checkpoint["frozen"] = self._frozen_hash()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise a UserError if the frozen weights are others; older checkpoints hold no hash, or all its 64 digits."""
        if "frozen" in checkpoint and not checkpoint["frozen"].startswith(self._frozen_hash()):
            keys = " or ".join(f"model.{key} {attrgetter(key)(self.config.model)}" for key in self.frozen_keys)
            raise UserError(f"{keys}: these are not the weights that the run began with: name those, or start a new "
                            "run with another exp_name=...")  # fmt: skip


def _trainer(
    config: RunConfig, train: TrainConfig, callbacks: list[pl.Callback], manual: bool, validate_every: int
) -> pl.Trainer:
    timeout, is_sharded = timedelta(seconds=train.timeout), train.strategy == MODEL_PARALLEL
    trainer = pl.Trainer(
        accelerator=train.accelerator,
        devices=train.devices,
        num_nodes=train.num_nodes,
        strategy=lightning_internals.FullyShardedStrategy(timeout) if is_sharded else train.strategy,
        plugins=lightning_internals.environments(),
        precision=usable(train.precision, train.accelerator),  # type: ignore[arg-type]
        accumulate_grad_batches=1 if manual else train.accumulate,
        gradient_clip_val=None if manual or not train.gradient_clip else train.gradient_clip,
        max_epochs=1,  # one pass over StepBatches, whose length is max_steps
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        limit_val_batches=train.valid_batches or None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(train.save_summary_steps, train.max_steps),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        inference_mode=not is_sharded,  # FSDP2 gathers weights into tensors that later need gradients
        callbacks=callbacks,
        logger=TensorBoardLogger(config.run_dir, name="", version="tensorboard"),
    )
    lightning_internals.set_up_processes(trainer, timeout)
    if manual:
        lightning_internals.allow_unused_parameters(trainer)
    return trainer


def _evaluation(config: RunConfig) -> EvaluationConfig | None:
    """The section `evaluation`, or None if the recipe has none or it is disabled."""
    section: EvaluationConfig | None = getattr(config, "evaluation", None)
    return section if section and section.num_samples else None


def run(config: RunConfig, resume: bool) -> Path:
    """Train and export a recipe, and return the exported folder.

    Raises:
        UserError: as `fit`; or the data are not prepared, or an embedder of `config.evaluation` does not exist.
    """
    if section := _evaluation(config):
        from sonolume.models.evaluation.embedders.load import check

        for embedder in section.embedders:  # before anything slow
            check(embedder)
    task, data = build(config)
    return fit(task, data, config, config.train, resume) / task.export_folder  # type: ignore[attr-defined]


def build(config: RunConfig) -> tuple[pl.LightningModule, TrainingData]:
    """Load the frozen networks of a recipe once, and build its data and its task from the seed of the config.

    A recipe has `task.Task(config, frozen)`, a LightningModule that logs "val/loss" and has `export(folder)`, or a
    function `task.build_task` with the same arguments; `data.training_data(config, frozen)`; and, if it uses frozen
    networks, `task.load_frozen(config)`.
    """
    transformers.utils.logging.disable_progress_bar()  # of loading, which takes a second
    module = recipe_code(config.recipe, "task")
    sharding.check_config(config, config.train, getattr(module, "Task", None))
    frozen = module.load_frozen(config) if hasattr(module, "load_frozen") else Frozen()
    data = recipe_code(config.recipe, "data").training_data(config, frozen)
    torch.manual_seed(config.train.random_seed)
    make = module.build_task if hasattr(module, "build_task") else module.Task
    return make(config, frozen), data


def fit(task: pl.LightningModule, data: TrainingData, config: RunConfig, train: TrainConfig, resume: bool) -> Path:
    """Train, save and export; return the folder of the run.

    Raises:
        UserError: the folder contains another run and `resume` is off; there is nothing to resume; the checkpoint is
            damaged or belongs to another model; or this machine lacks the device.
    """
    launch.check_run(config.run_dir, resume)
    launch.check_nodes(train.num_nodes)
    if is_sharded := train.strategy == MODEL_PARALLEL:
        sharding.check_task(task)
    last = launch.last_checkpoint(config.run_dir)
    validate_every = min(train.valid_interval, train.max_steps) * train.accumulate  # batches
    if resume and _is_finished(task, last, train, validate_every):
        return config.run_dir
    if train.num_threads:
        torch.set_num_threads(train.num_threads)
    lightning_internals.silence()
    position = Position()
    wait = DataWait(position)
    save = SaveRun(config, train.save_checkpoints_steps, train.accumulate, position)
    callbacks: list[pl.Callback] = [position, wait, ProgressBar(position)]
    if train.ema_decay:
        callbacks.append((ShardedEMA if is_sharded else EMA)(train.ema_decay))
    if section := _evaluation(config):
        from sonolume.models.evaluation.validation import Evaluation  # slow, and rarely needed

        cache = paths.resolve(config.preprocess.processed_dir) / config.dataset[0] / "cache"  # type: ignore[attr-defined]
        callbacks.append(Evaluation(section, data.valid.rows, cache, position, validate_every))  # type: ignore[attr-defined]
    # last in the list: validate before the first step of a new run, so that curves start at step 0, and when last.ckpt
    # is of a step with a validation, which is written before it: the run may have been killed between them
    validate = lightning_internals.validate_now
    due = LambdaCallback(on_train_start=lambda trainer, _: position.batches % validate_every or validate(trainer))
    callbacks += [save, due]
    try:
        trainer = _trainer(config, train, callbacks, not task.automatic_optimization, validate_every)
        _check_cores(trainer)
        if environment := getattr(trainer.strategy, "cluster_environment", None):  # that of the launcher
            environment.validate_settings(trainer.num_devices, trainer.num_nodes)
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        raise UserError(f"train.accelerator, devices, strategy or precision: {first_line(error)}") from error
    if train.compile:
        for network in task.children():
            network.compile()
    try:
        with _lock_run(config.run_dir) if trainer.is_global_zero else nullcontext():
            if trainer.is_global_zero:
                files.write_json(config.run_dir / "config.json", config.to_dict())
            loaders = Loaders(data, train, config.dataset, position, wait)
            trainer.fit(task, datamodule=loaders, ckpt_path=str(last) if resume else None, weights_only=True)
    except Stopped as stopped:
        if trainer.is_global_zero:
            message(str(stopped))
        raise SystemExit(stopped.exit_code) from None
    except RuntimeError as error:
        if not lightning_internals.is_communication_error(error):
            raise
        reason = f"has ended, or did not answer within train.timeout {train.timeout:g} s"
        raise LostProcessError(
            f"another process of this run {reason}: see its message, then continue with --resume"
        ) from error
    finally:
        save.restore_signals()
    return config.run_dir


@contextmanager
def _lock_run(folder: Path) -> Iterator[None]:
    """Keep other trainings out of the folder of a run, and remove what a killed one left there.

    Raises:
        UserError: another training is running in the folder.
    """
    with locked(folder / ".lock", f"training in {folder}", wait=False):
        for path in files.unfinished(folder):
            files.remove(path)
        yield


def _check_cores(trainer: pl.Trainer) -> None:
    """Raise a ValueError for more processes on a CPU than it has cores; two are always possible."""
    cores = max(2, os.cpu_count() or 1)
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > cores:
        raise ValueError(f"{trainer.num_devices} devices on a CPU are as many processes: choose at most {cores}")


def _is_finished(task: pl.LightningModule, last: Path, train: TrainConfig, validate_every: int) -> bool:
    """Check that a resumed run finds its own checkpoint; True if nothing is left to do.

    After all steps the last validation may be left.
    """
    done = checkpoint.check_training(last, task)["callbacks"]["Position"]["batches"]
    if done < train.max_steps * train.accumulate:
        return False
    message(f"{last}: all {train.max_steps} steps are done: raise train.max_steps to continue")
    return done % validate_every != 0
