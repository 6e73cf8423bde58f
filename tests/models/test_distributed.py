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


def test_processes_share_the_draws_of_a_batch():
    def draw(count: int, random: torch.Generator) -> torch.Tensor:
        return torch.randn(count, 3, generator=random)

    one = step_draws(7, 3, 4)
    shares = [step_draws(7, 3, 2, rank, 2) for rank in (0, 1)]
    for _ in range(2):  # the second draw too
        assert one(draw).equal(torch.cat([share(draw) for share in shares]))
    assert not step_draws(7, 4, 4)(draw).equal(step_draws(7, 3, 4)(draw))
