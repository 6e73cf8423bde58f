"""Training runs in tests: start, break off, resume and compare."""

import functools
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sonolume.bins import evaluate, preprocess
from sonolume.bins import train as bin_train
from sonolume.config.load import load_config
from sonolume.models.training import build, fit
from sonolume.utils import checkpoint, cli

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


QUICK_TRAIN = {  # of a run that saves and validates twice, in a second
    "batch_size": 2, "max_steps": 4, "accumulate": 2, "ema_decay": 0.8, "save_checkpoints_steps": 2,
    "valid_interval": 2, "num_workers": 0, "accelerator": "cpu", "devices": 1, "warmup_steps": 1,
    "gradient_clip": 1.0, "adam": {"lr": 1e-2}, "save_summary_steps": 1,
}  # fmt: skip


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


def assert_resumes(path: Path, overrides: Sequence[str], at: int = 5) -> Path:
    """Compare an unbroken run with one that was cut before batch `at` and resumed, bit by bit; return the former.

    Random numbers that others draw before that batch change nothing.
    """

    def draw() -> None:
        torch.rand(7)
        np.random.random()

    whole = train(load_config(path, [*overrides, "exp_name=whole"]), at=(at, draw))
    config = load_config(path, [*overrides, "exp_name=broken"])
    with pytest.raises(PowerCut):
        train(config, at=(at, cut_power))
    assert_same_training(whole, train(config, resume=True))
    return whole


def learn(file: Path, folder: Path, data: Sequence[str], short: Sequence[str], asked: Sequence[str]) -> dict[str, Any]:
    """Prepare, train and evaluate a config by its commands, and return the scores of the report by name.

    Args:
        folder: empty, for everything that is written.
        data: overrides of all commands, `short` more of the training; `asked` are flags of the evaluation.
    """
    config = ["--config", str(file), f"log_dir='{folder}/ckpts'", f"preprocess.processed_dir='{folder}/data'", *data]
    assert cli.run(preprocess.main, [*config, "preprocess.num_workers=0"]) == 0
    assert cli.run(bin_train.main, [*config, *short]) == 0
    exported = load_config(file, config[2:]).run_dir / "pipeline"
    flags = ["--checkpoint", str(exported), "--preset", "fast", "--output_dir", str(folder / "scores"), *asked]
    assert cli.run(evaluate.main, [*config, *flags]) == 0
    scores = json.loads((folder / "scores/report.json").read_text(encoding="utf-8"))["scores"]
    return {score["name"]: score for score in scores}


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
