"""Two processes on a CPU (gloo), started by torchrun, against one with the same global batch."""

import json
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.training import step_draws
from sonolume.utils import checkpoint
from tests.runs import assert_same_training, last

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
            assert name != "latent" or rank["sharded"][0] == pytest.approx(losses, rel=1e-5)
        assert best(config, name) == pytest.approx(best(config, f"one_{name}"), rel=1e-5)
    for name in ("latent", "vae", "gan", "sharded"):
        assert ranks[0][name][1] == ranks[1][name][1]  # the same weights

    assert all(math.isfinite(loss) for loss in ranks[0]["gan"][0])
    assert "SIGTERM after 10 batches" in done.stderr
    last = checkpoint.read(tmp_path / "gan" / "checkpoints" / "last.ckpt")
    assert last["callbacks"]["Position"] == {"batches": 10}
    assert [int(optimizer["state"][0]["step"]) for optimizer in last["optimizer_states"]] == [10, 9]
    assert (tmp_path / "gan" / "pipeline").is_dir()


def children(process: int) -> list[int]:
    """The processes that a process has started, and those that these have started, and so on."""
    lists = [file.read_text().split() for file in Path(f"/proc/{process}/task").glob("*/children")]
    found = [int(child) for some in lists for child in some]
    return [*found, *(one for child in found for one in children(child))]


def is_running(process: int) -> bool:
    """Whether a process neither ended nor waits for its parent to notice that."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the test reads Linux's /proc")
@pytest.mark.parametrize(("strategy", "moment"), [
    ("ddp", "at its start"), ("ddp", "in training"), ("ddp_fork", "at its start"),
])  # fmt: skip
def test_no_process_outlives_the_one_that_was_killed(
    strategy: str, moment: str, tiny_config: Callable[..., Path], root: Path, tmp_path: Path
):
    long = {"max_steps": 10**6, "valid_interval": 10**6}
    config = tiny_config("tta/audioldm", train=TRAIN | long | {"devices": 2, "strategy": strategy, "num_workers": 1})
    command = [sys.executable, str(root / "bins" / "train.py"), "--config", str(config)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as parent:
        ready = {
            "at its start": lambda: children(parent.pid),
            "in training": lambda: (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file(),
        }[moment]
        assert wait_for(ready, 120), (tmp_path / "log").read_text()
        started = children(parent.pid)
        parent.kill()
    try:
        assert len(started) >= (1 if moment == "at its start" else 3)  # the other process, and the data loaders of both
        assert wait_for(lambda: not any(map(is_running, started)), 20)
    finally:
        for process in filter(is_running, started):
            os.kill(process, signal.SIGKILL)


@pytest.mark.full
def test_a_lost_process_ends_the_run_and_resume_is_exact(tiny_config: Callable[..., Path], root: Path):
    """SIGKILL for one of two processes in the middle of an epoch and of an accumulation, with an average."""
    config = tiny_config("tta/audioldm", train={"devices": 2, "strategy": "ddp", "timeout": 60})
    drill = [sys.executable, str(PROCESSES), "lost", "11", str(config)]
    done = subprocess.run(drill, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: another process of this run has ended") and line.endswith("continue with --resume")
    folder = load_config(config, ["exp_name=lost"]).run_dir
    assert last(folder)["callbacks"]["Position"] == {"batches": 8}

    command = [sys.executable, str(root / "bins" / "train.py"), "--config", str(config), "--auto_resume"]
    for name in ("lost", "whole"):
        subprocess.run([*command, f"exp_name={name}"], check=True, capture_output=True, timeout=200)
    assert_same_training(folder, folder.with_name("whole"))
    assert not list(folder.rglob(".tmp-*"))


@pytest.mark.parametrize("strategy", ["ddp", "model_parallel"])
def test_processes_wait_no_longer_than_the_timeout(strategy: str, tiny_config: Callable[..., Path]):
    config = load_config(tiny_config("tta/audioldm"), [f"train.strategy={strategy}", "train.timeout=7.5"])
    trainer: Any = training._trainer(config, config.train, [], False, 1)
    assert trainer.strategy._timeout == timedelta(seconds=7.5)


def test_slurm_does_not_requeue_through_lightning(tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """Under srun the environment is SLURM's; a launcher inside of it, such as torchrun, comes first."""
    config = load_config(tiny_config("tta/audioldm"))

    def environment() -> Any:
        trainer: Any = training._trainer(config, config.train, [], False, 1)
        return trainer._accelerator_connector.cluster_environment

    assert not isinstance(environment(), SLURMEnvironment)
    for name in ("NTASKS=1", "NTASKS_PER_NODE=1", "JOB_NAME=train", "PROCID=0", "LOCALID=0"):
        monkeypatch.setenv("SLURM_" + name.partition("=")[0], name.partition("=")[2])
    found = environment()
    assert isinstance(found, SLURMEnvironment) and not found.auto_requeue
    for name in ("RANK", "GROUP_RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "0")
    assert isinstance(environment(), TorchElasticEnvironment)


def test_processes_share_the_draws_of_a_batch():
    def draw(count: int, random: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 3, generator=random)

    one = step_draws(7, 3, 4)
    shares = [step_draws(7, 3, 2, rank, 2) for rank in (0, 1)]
    for _ in range(2):  # the second draw too
        assert one(draw).equal(torch.cat([share(draw) for share in shares]))
    assert not step_draws(7, 4, 4)(draw).equal(step_draws(7, 3, 4)(draw))
