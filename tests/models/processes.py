"""Training in separate processes, for tests.

torchrun ... processes.py pair FOLDER LATENT_CONFIG VAE_CONFIG   two ranks; each writes FOLDER/rank{0,1}.json
torchrun ... processes.py crossed FOLDER CONFIG                  likewise
python processes.py lost BATCH CONFIG                            two processes, one gets SIGKILL before BATCH
python processes.py killed BATCH CONFIG ...                      each run gets SIGKILL before BATCH
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from sonolume.config.load import load_config
from sonolume.models import sharding
from sonolume.models.training import build, fit
from sonolume.utils import cli
from sonolume.utils.cache import content_hash


def run(
    config_file: Path, name: str, *overrides: str, at: tuple[int, Callable[[], None]] | None = None,
    resume: bool = False, preview: bool = False,
) -> tuple[list[float], str]:  # fmt: skip
    """Train like bins/train.py, and return the loss of every batch and a hash of the trained weights.

    Args:
        at: (batch, function to call before it).
    """
    config = load_config(config_file, [f"exp_name={name}", *overrides])
    task, data, losses = build_recorded(config)
    if preview:
        del task._preview
    task.on_train_batch_start = lambda _, index: at[1]() if at and at[0] == index else None
    try:
        fit(task, data, config, config.train, resume)
    except SystemExit as stopped:
        assert stopped.code == 128 + signal.SIGTERM
    return losses, weights_hash(task)


def run_as_two(config_file: Path, name: str, *overrides: str) -> list[tuple[list[float], str]]:
    """Train like `run` as two processes, forks of this one that import nothing again; return what it does for each."""
    config = load_config(config_file, [f"exp_name={name}", "train.devices=2", "train.strategy=ddp_fork", *overrides])
    task, data, losses = build_recorded(config)
    files = [config.run_dir / f"rank{rank}.json" for rank in (0, 1)]
    task.on_fit_end = lambda: files[task.global_rank].write_text(json.dumps([losses, weights_hash(task)]))
    fit(task, data, config, config.train, resume=False)
    return [tuple(json.loads(file.read_text())) for file in files]


def build_recorded(config: Any) -> tuple[Any, Any, list[float]]:
    """A task without previews, its data, and the loss of every batch, which its training adds."""
    task: Any
    task, data = build(config)
    losses: list[float] = []
    task._preview = lambda: None
    task.on_train_batch_end = lambda *_: losses.append(float(task.trainer.callback_metrics["train/loss"]))
    return task, data, losses


def weights_hash(task: Any) -> str:
    """A hash of the trained weights, also of those that are split over processes."""
    return content_hash([one.full_tensor() if isinstance(one, DTensor) else one for one in task.parameters()])


def record_the_cache(folder: Path, rank: str) -> None:
    """Start both ranks at the same time, and leave a file for each computed split."""
    data = importlib.import_module("sonolume.models.tta.audioldm.data")
    write_states = data._write_states

    def slow(writer: Any, *others: Any) -> None:
        (folder / f"computed-{writer.folder.name}-{rank}").touch()
        time.sleep(1)
        write_states(writer, *others)

    data._write_states = slow
    (folder / f"ready-{rank}").touch()
    while len(list(folder.glob("ready-*"))) < 2:
        time.sleep(0.01)


def record_the_scores(folder: Path, rank: str) -> None:
    """Leave a file with the scores of generated samples."""
    callback: Any = importlib.import_module("sonolume.models.evaluation.validation").Evaluation
    scores = callback.scores

    def shown(*arguments: Any) -> dict[str, float]:
        found = scores(*arguments)
        (folder / f"scores-{rank}.json").write_text(json.dumps(found))
        return found

    callback.scores = shown


def pair(folder: Path, latent: Path, vae: Path) -> None:
    rank = os.environ["RANK"]

    def stop_one() -> None:
        if rank == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    record_the_cache(folder, rank)
    record_the_scores(folder, rank)
    scored = ["num_samples=2", "num_steps=2", "embedders=['mini:sound_judge']"]
    found: dict[str, Any] = {"latent": run(latent, "latent", *(f"evaluation.{option}" for option in scored))}
    found["vae"] = run(vae, "vae", "model.loss.disc_start=100")
    sharding.SMALLEST_BLOCK = 1
    found["sharded"] = run(latent, "sharded", "train.strategy=model_parallel")
    gan = ["model.loss.disc_start=1", "train.max_steps=30", "train.accumulate=1", "train.ema_decay=0"]
    found["gan"] = run(vae, "gan", *gan, at=(2, stop_one))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def crossed(folder: Path, config: Path) -> None:
    """Runs that change between DDP and shards after half of the steps, also with previews, scores and bfloat16."""
    sharding.SMALLEST_BLOCK = 1
    half, ddp, shards = "train.max_steps=4", "train.strategy=ddp", "train.strategy=model_parallel"
    scored = ["evaluation.num_samples=2", "evaluation.num_steps=2", "evaluation.embedders=['mini:sound_judge']"]
    found = {"ddp": run(config, "ddp", ddp), "shards": run(config, "shards", shards, *scored, preview=True)}
    for first, second in ((ddp, shards), (shards, ddp), (shards, shards)):
        name = f"{first}_{second}".replace("train.strategy=", "")
        run(config, name, half, first)
        found[name] = run(config, name, second, resume=True)
    run(config, "one_later", half, shards)
    training: Any = importlib.import_module("sonolume.models.training")
    training.usable = lambda precision, _: precision  # emulated by most processors
    for strategy in ("ddp", "model_parallel"):
        found[f"half_{strategy}"] = run(config, f"half_{strategy}", f"train.strategy={strategy}",
                                        "train.precision=bf16-mixed")  # fmt: skip
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(found))


def killed(batch: int, configs: list[Path]) -> None:
    for config in configs:
        child = os.fork()  # nothing was computed yet, thus there are no threads to lose
        if child == 0:
            run(config, f"killed_{config.stem}", at=(batch, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def lost(batch: int, config: Path) -> int:
    """Train with two processes, which Lightning starts, as a command does; return its exit code."""

    def kill_one() -> None:
        if os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    return cli.run(lambda _: (run(config, "lost", at=(batch, kill_one)), None)[1], [])


if __name__ == "__main__":
    paths = [Path(argument) for argument in sys.argv[2:]]
    if sys.argv[1] == "pair":
        pair(*paths)
    elif sys.argv[1] == "crossed":
        crossed(*paths)
    elif sys.argv[1] == "lost":
        sys.exit(lost(int(sys.argv[2]), *paths[1:]))
    else:
        killed(int(sys.argv[2]), paths[1:])
