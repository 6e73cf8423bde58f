"""Training runs in tests: start, break off, resume and compare."""

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sonolume.models.training import build, fit
from sonolume.utils import checkpoint

# python -c HOLD PATH: holds the lock PATH until it reads a line
HOLD = """
import os, pathlib, sys, time
from sonolume.utils.cache import locked
with locked(pathlib.Path(sys.argv[1]), "counting"):
    if os.fork() == 0:  # as the workers of a data loader, which outlive their parent for some seconds
        os.close(1)
        time.sleep(0.5)
        os._exit(0)
    print("inside", flush=True)
    sys.stdin.readline()
"""
PIPES: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


class PowerCut(Exception):
    """Ends a run like a power cut: without a chance to save."""


def cut_power() -> None:
    raise PowerCut


def train(config: Any, resume: bool = False, at: tuple[int, Callable[[], None]] | None = None) -> Path:
    """Train like bins/train.py, and return the folder of the run.

    Args:
        at: (batch, function to call before that batch).
    """
    task, data = build(config)
    if at:
        batch_index, disturb = at
        step = task.training_step

        @functools.wraps(step)  # Lightning inspects the signature
        def disturbed(batch: Any, index: int) -> Any:
            if index == batch_index:
                disturb()
            return step(batch, index)

        task.training_step = disturbed
    return fit(task, data, config, config.train, resume)


def last(folder: Path) -> dict[str, Any]:
    """Load the last checkpoint of a run."""
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")


def saved(task: Any) -> dict[str, Any]:
    """What a task itself adds to a checkpoint."""
    content: dict[str, Any] = {}
    task.on_save_checkpoint(content)
    return content


def change_weights(folder: Path, prefix: str = "") -> None:
    """Change the weights in the safetensors file of a folder, as a new training there does; those of a prefix only."""
    path = next(folder.glob("*.safetensors"))
    weights = load_file(path)
    floats = {name: one for name, one in weights.items() if one.is_floating_point() and name.startswith(prefix)}
    changed = {name: one * 1.1 + 0.1 for name, one in floats.items()}
    assert changed
    save_file({**weights, **changed}, path, {"format": "pt"})


def assert_same(one: Any, two: Any, where: str = "") -> None:
    """Compare nested values and tensors bit by bit."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert one.equal(two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    else:
        assert one == two, where


def assert_same_training(one: Path, two: Path) -> None:
    """Compare the weights, their average, the optimizers and the positions of two runs."""
    first, second = last(one), last(two)
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same(first.get(key), second.get(key), key)
    assert_same(first["callbacks"], second["callbacks"], "callbacks")
    assert first["global_step"] == second["global_step"]
