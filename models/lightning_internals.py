"""The only code that relies on undocumented behaviour of Lightning, each function with the source it relies on.

Written against pytorch-lightning 2.6; the first place to check after an upgrade. All else uses documented hooks.
"""

import logging
import warnings
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy

IGNORED_WARNINGS = (
    ".*LeafSpec.*",  # deprecated name of torch in Lightning's own code
    ".*does not have many workers.*",  # the config decides
    ".*lr_scheduler.step.*before.*",  # a discriminator may start later than the generator
    ".*resuming from a checkpoint that ended before.*",  # `StepBatches` resumes in the middle of an epoch
)


def silence() -> None:
    """Drop Lightning's advertisements and warnings that do not apply here."""
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.WARNING)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def validate_now(trainer: pl.Trainer) -> None:
    """Run a whole validation outside the training loop, as `_TrainingEpochLoop.on_advance_end` does.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/loops/training_epoch_loop.py
    """
    loop, trainer.validating = trainer.fit_loop.epoch_loop.val_loop, True
    loop.restarting = False  # as `advance` does: all batches, though the checkpoint was written after some validation
    loop.run()
    trainer.training = True


def reopen_epoch(checkpoint: dict[str, Any]) -> None:
    """Let a finished run continue after `max_steps` was raised: its last batch is no longer the last of the epoch.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/loops/progress.py (is_last_batch)
    """
    checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False


class FullyShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all processes of all machines, with checkpoints of one file, as other strategies write them.

    "auto" of the base class would split over machines only.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/strategies/model_parallel.py
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__("auto", 1, save_distributed_checkpoint=False, timeout=timeout)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def set_up_processes(trainer: pl.Trainer, timeout: timedelta) -> None:
    """Let DDP end after a time-out, and hold gradients once instead of twice, whatever strategy "auto" chose.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/strategies/ddp.py
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._timeout = timeout
        trainer.strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)


def is_communication_error(error: RuntimeError) -> bool:
    """Whether processes could not communicate; Gloo raises plain RuntimeErrors, which name its source files.

    https://github.com/pytorch/gloo/blob/main/gloo/transport/tcp/pair.cc
    """
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)


def environments() -> list[Any]:
    """SLURM's environment where `srun` has started this process, without Lightning's own requeueing.

    That would handle SIGUSR1 and write checkpoints of its own; `SaveRun` saves at SIGTERM and egs/_slurm.sh requeues.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/trainer/connectors/signal_connector.py
    """
    is_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()  # in Lightning's own order
    return [SLURMEnvironment(auto_requeue=False)] if is_slurm else []


def allow_unused_parameters(trainer: pl.Trainer) -> None:
    """Let DDP work while some weights get no gradients, as a frozen network of a GAN, whatever strategy "auto" chose.

    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/strategies/ddp.py (_ddp_kwargs)
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs["find_unused_parameters"] = True


def allow_clipping(optimizer: torch.optim.Optimizer) -> None:
    """Let gradients be clipped before a fused optimizer: Lightning refuses that with mixed precision.

    A fused optimizer offers to unscale gradients in its step, after clipping. Without the offer, the precision plugin
    and `torch.amp.GradScaler` unscale them before, as they do for any other optimizer.
    https://github.com/Lightning-AI/pytorch-lightning/blob/2.6.0/src/lightning/pytorch/plugins/precision/amp.py
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
