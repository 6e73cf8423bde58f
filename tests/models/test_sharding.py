"""Weights that are split over processes: what is split, what is refused, and checkpoints that fit every strategy."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sonolume.bins import train
from sonolume.config.load import load_config
from sonolume.models import sharding
from sonolume.utils import checkpoint
from sonolume.utils.errors import UserError

PROCESSES = Path(__file__).parent / "processes.py"
SHARDS = "train.strategy=model_parallel"


def test_blocks_of_a_unet(make_pipeline: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    """Every block whose weights are worth it alone; no weight is in two of them."""
    unet = make_pipeline().unet
    assert sharding.blocks(unet) == []
    monkeypatch.setattr(sharding, "SMALLEST_BLOCK", 1)
    middle = [*unet.mid_block.attentions, *unet.mid_block.resnets]
    assert sharding.blocks(unet) == [*unet.down_blocks, *unet.up_blocks, *middle]


@pytest.mark.parametrize(
    ("recipe", "override", "reason"),
    [
        ("tta/autoencoderkl", "train.max_steps=4", "several networks in turns: use train.strategy=ddp"),
        ("tta/audioldm", "model.method=lora", "LoRA trains few weights: use train.strategy=ddp"),
        ("tta/audioldm", "train.precision=16-mixed", "choose 32-true or bf16-mixed"),
        ("tta/audioldm", "train.compile=true", "set train.compile=false"),
    ],
)
def test_what_cannot_be_split_is_refused(
    recipe: str, override: str, reason: str, tiny_config: Callable[..., Path], refused: Callable[..., str]
):
    line = refused(train.main, "--config", str(tiny_config(recipe)), SHARDS, override)
    assert line.startswith("error: train.strategy model_parallel: ") and line.endswith(reason)


def test_a_single_number_cannot_be_split():
    task: Any = pl.LightningModule()
    task.sharding_obstacle, task.temperature = "", torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match="the weight temperature is a single number"):
        sharding.check_task(task)


@pytest.mark.full
def test_checkpoints_fit_every_strategy(tiny_config: Callable[..., Path], tmp_path: Path):
    """Runs that change the strategy are equal to others, and shards also preview, score, and compute in bfloat16."""
    config = tiny_config("tta/audioldm", train={"devices": 2, "lr_schedule": "constant", "adam": {"lr": 1e-3}})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(PROCESSES)]
    done = subprocess.run([*launch, "crossed", str(tmp_path), str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    losses = first["ddp"][0]
    assert len(losses) == 16
    assert first["shards"][0] == pytest.approx(losses, rel=1e-5)
    for name in ("ddp_model_parallel", "model_parallel_ddp", "model_parallel_model_parallel"):
        assert first[name][0] == pytest.approx(losses[8:], rel=1e-5), name
    assert first["shards"] == [first["shards"][0], first["model_parallel_model_parallel"][1]]  # bit by bit

    one = runpy.run_path(str(PROCESSES))["run"]
    alone = ["train.devices=1", "train.batch_size=4"]
    assert one(config, "one_later", *alone, resume=True)[0] == pytest.approx(losses[8:], rel=1e-5)

    folders = {name: load_config(config, [f"exp_name={name}"]).run_dir for name in ("ddp", "shards", "one_later")}
    states = {name: checkpoint.read(folder / "checkpoints" / "last.ckpt") for name, folder in folders.items()}
    for name in ("state_dict", "current_model_state"):  # the average and the weights
        for key, weight in states["ddp"][name].items():
            for other in ("shards", "one_later"):
                torch.testing.assert_close(states[other][name][key], weight, rtol=1e-4, atol=1e-5)
    moments = {name: state["optimizer_states"][0]["state"] for name, state in states.items()}
    for number, moment in moments["ddp"].items():  # other than the weights, they show the scale of gradients
        torch.testing.assert_close(moments["shards"][number], moment, rtol=1e-4, atol=1e-7)
    exported = load_file(folders["shards"] / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(weight.equal(states["shards"]["state_dict"][f"unet.{key}"]) for key, weight in exported.items())
    index = json.loads((folders["shards"] / "pipeline" / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]

    curves = EventAccumulator(str(folders["shards"] / "tensorboard"), {"audio": 0}).Reload().Tags()
    assert "eval/IS mini:sound_judge" in curves["scalars"] and "preview/0" in curves["audio"]
    half, other = first["half_ddp"][0], first["half_model_parallel"][0]
    assert half != losses and other != losses
    assert other == pytest.approx(half, rel=1e-2)
