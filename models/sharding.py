"""Fully sharded data parallelism (FSDP2): each process holds a part of every weight, gradient and optimizer state.

`train.strategy=model_parallel` is for networks whose training state (16 bytes per weight in float32) does not fit on
one device; `ddp` is faster for all others. The whole weights of a block exist only while the block computes.
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from sonolume.config.base import MODEL_PARALLEL, RunConfig
from sonolume.models.lightning_internals import FullyShardedStrategy
from sonolume.utils.errors import UserError

SMALLEST_BLOCK = 1_000_000  # weights; smaller blocks are gathered together with their surroundings
PRECISIONS = ("32-true", "bf16-mixed")
# Methods of a task in which all processes compute with its networks. Other methods see shards only.
COLLECTIVE = ("training_step", "validation_step", "on_validation_epoch_end", "generate")


def is_sharded(trainer: pl.Trainer) -> bool:
    """Whether the weights are split over the processes."""
    return isinstance(trainer.strategy, FullyShardedStrategy)


def check_config(config: RunConfig, train: Any, kind: Any) -> None:
    """Raise a UserError if a run asks for sharding and its recipe or another setting does not work with it.

    Args:
        kind: class of the task, or None if only the recipe's code knows it; see `check_task`.
    """
    if train.strategy != MODEL_PARALLEL:
        return
    if kind is not None:
        _refuse(kind.sharding_obstacle)
    if str(getattr(getattr(config, "model", None), "method", "")) == "lora":
        _refuse("LoRA trains few weights")
    if train.precision not in PRECISIONS:
        _refuse(f"train.precision {train.precision} is not possible with it: choose {' or '.join(PRECISIONS)}", "")
    if train.compile:
        _refuse("train.compile is not possible with it", "set train.compile=false")


def check_task(task: Any) -> None:
    """Raise a UserError if the task has weights that cannot be sharded."""
    _refuse(task.sharding_obstacle)
    if scalar := next((name for name, weight in task.named_parameters() if weight.ndim == 0), None):
        _refuse(f"the weight {scalar} is a single number, which cannot be split")


def _refuse(reason: str, remedy: str = "use train.strategy=ddp") -> None:
    if reason:
        raise UserError(": ".join(filter(None, (f"train.strategy {MODEL_PARALLEL}", reason, remedy))))


def blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network that are worth gathering alone: entries of its outermost `nn.ModuleList`s."""
    found = list[nn.Module]()
    for child in network.children():
        large = isinstance(child, nn.ModuleList) and [one for one in child if _size(one) >= SMALLEST_BLOCK]
        found += large or blocks(child)
    return found


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def shard(task: pl.LightningModule) -> None:
    """Split the weights of a task over all processes, each block alone and the rest together.

    All processes must hold the same weights. With bf16-mixed, weights are gathered in bfloat16 and gradients are summed
    in float32. Inputs keep their precision, which matters for noise times; autocast converts them where it is safe.
    """
    assert task.device_mesh is not None
    mesh, is_half = task.device_mesh["data_parallel"], task.trainer.precision == "bf16-mixed"
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = half if is_half else MixedPrecisionPolicy()
    for block in blocks(task):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(task, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for name in COLLECTIVE:
        if hasattr(task, name):
            register_fsdp_forward_method(task, name)


@contextmanager
def whole_weights(trainer: pl.Trainer, task: pl.LightningModule) -> Iterator[None]:
    """Let the first process see a sharded task as if it were not, on the CPU, to export it; a no-op for any other task.

    All processes must enter the block. The networks cannot compute inside it.
    """
    weights = trainer.strategy.lightning_module_state_dict() if is_sharded(trainer) else {}
    if not weights:  # only the first process gets them
        yield
        return
    kinds = [(module, type(module)) for module in task.modules() if isinstance(module, FSDPModule)]
    parts = [(prefix, module, name, weight) for prefix, module in task.named_modules()
             for name, weight in module.named_parameters(recurse=False)]  # fmt: skip
    known = dict[int, nn.Parameter]()  # shared weights stay shared
    try:
        for module, kind in kinds:
            module.__class__ = kind.__mro__[2]  # the class that `fully_shard` has derived `kind` from
        for prefix, module, name, weight in parts:
            whole = nn.Parameter(weights[f"{prefix}.{name}".lstrip(".")], weight.requires_grad)
            setattr(module, name, known.setdefault(id(weight), whole))
        yield
    finally:
        for _, module, name, weight in parts:
            setattr(module, name, weight)
        for module, kind in kinds:
            module.__class__ = kind
