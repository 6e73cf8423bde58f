"""Two processes on a CPU (gloo), started by torchrun, against one with the same global batch."""

import json
import math
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sonolume.config.load import load_config
from sonolume.models.training import step_draws
from sonolume.utils import checkpoint

PROCESSES = Path(__file__).parent / "processes.py"
TRAIN = {"max_steps": 3, "valid_interval": 3, "save_checkpoints_steps": 3, "adam": {"lr": 1e-3}}


def best(config: Path, name: str) -> float:
    """Smallest validation loss of a run."""
    path = load_config(config, [f"exp_name={name}"]).run_dir / "checkpoints" / "best.ckpt"
    return checkpoint.read(path)["callbacks"]["SaveRun"]["best"]


def test_two_processes_train_as_one(tiny_config: Callable[..., Path], tiny_data: Path, tmp_path: Path):
    """Both stages, with accumulation, clipping and an average; one of two fills the cache; they stop together.

    One rank also scores generated samples, which must not change the losses.
    """
    shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    here = {"preprocess": {"processed_dir": str(tmp_path / "data")}}
    both = {"devices": 2, "strategy": "ddp"}
    latent, vae = (tiny_config(f"tta/{name}", train=TRAIN | both, **here) for name in ("audioldm", "autoencoderkl"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(PROCESSES)]
    arguments = ["pair", str(tmp_path), str(latent), str(vae)]
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks: list[Any] = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]

    assert len(list(tmp_path.glob("computed-*"))) == 2  # train and valid, once each
    assert "another process is " in done.stderr
    (scored,) = tmp_path.glob("scores-*")
    assert scored.name == "scores-0.json"
    assert {"eval/IS mini:sound_judge", "eval/silent"} <= set(json.loads(scored.read_text()))

    run = runpy.run_path(str(PROCESSES))["run"]
    alone = ["train.devices=1", "train.strategy=auto", "train.batch_size=4"]
    for name, config, option in (("latent", latent, []), ("vae", vae, ["model.loss.disc_start=100"])):
        losses, _ = run(config, f"one_{name}", *alone, *option)
        assert len(losses) == 6 and len(set(losses)) == 6
        for rank in ranks:
            assert rank[name][0] == pytest.approx(losses, rel=1e-5)
        assert best(config, name) == pytest.approx(best(config, f"one_{name}"), rel=1e-5)
    for name in ("latent", "vae", "gan"):
        assert ranks[0][name][1] == ranks[1][name][1]  # the same weights

    assert all(math.isfinite(loss) for loss in ranks[0]["gan"][0])
    assert "SIGTERM after 10 batches" in done.stderr
    last = checkpoint.read(tmp_path / "gan" / "checkpoints" / "last.ckpt")
    assert last["callbacks"]["Position"] == {"batches": 10}
    assert [int(optimizer["state"][0]["step"]) for optimizer in last["optimizer_states"]] == [10, 9]
    assert (tmp_path / "gan" / "pipeline").is_dir()


def test_processes_share_the_draws_of_a_batch():
    def draw(count: int, random: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 3, generator=random)

    one = step_draws(7, 3, 4)
    shares = [step_draws(7, 3, 2, rank, 2) for rank in (0, 1)]
    for _ in range(2):  # the second draw too
        assert one(draw).equal(torch.cat([share(draw) for share in shares]))
    assert not step_draws(7, 4, 4)(draw).equal(step_draws(7, 3, 4)(draw))
