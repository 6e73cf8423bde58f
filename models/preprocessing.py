"""Who computes the shards of a data set: this process, several on this machine, one part of many, or Ray.

All of them call the same function, `prepare`, with another part; progress is recorded only on the disk. So every engine
continues the work of every other, also of one that was killed.
"""

import contextlib
import logging
import multiprocessing
import os
import re
import socket
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
from tqdm import tqdm

from sonolume.config.base import DataConfig, Engine, PreprocessConfig, Storage
from sonolume.config.options import PreprocessOptions
from sonolume.config.part import NO_PART, Part
from sonolume.models.recipes import recipe_code
from sonolume.models.training import Frozen
from sonolume.preprocessors import parallel, stages
from sonolume.preprocessors.prepared import is_sharded
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.text import message

RAY_CPUS = 0.5  # of a Ray worker; with whole ones Ray waits for ever on a machine of one or two cores
ROWS_OF_PROCESS = 3000  # at least: one process reads and computes with several threads, and others start in 8 s
REACHABLE_SECONDS = 10  # in which a Ray cluster must answer
PARTS_OF_WORKER = 4  # under Ray, so that fast workers can take more


def run(config: Any, options: PreprocessOptions) -> bool:
    """Prepare a data set with the engine of `config.preprocess`; return whether it is complete.

    Raises:
        UserError: as the recipe's `preprocess`; or a part of files is asked for, or Ray is not installed.
    """
    if options.dataset and options.dataset not in config.dataset:
        config = config.of_dataset(options.dataset)
    data = getattr(config, "preprocess", None)
    if not isinstance(data, DataConfig):  # a recipe that makes its own data
        recipe_code(config.recipe, "data").preprocess(config, options)
        return True
    in_shards = not isinstance(data, PreprocessConfig) or data.storage is Storage.shards
    in_shards = in_shards or is_sharded(data, options.dataset or config.dataset[0])
    if not in_shards and (options.part or data.engine is Engine.ray):
        what = "--part" if options.part else "preprocess.engine=ray"
        raise UserError(f"{what}: needs preprocess.storage=shards; one process prepares clips in files")
    if options.part and data.engine is Engine.ray:
        raise UserError("--part: computes one part without Ray: leave it out, or use preprocess.engine=local")
    if options.part:
        with stages.only(options.part) as report:
            prepare(config, options)
        _print_part(report)
        return not report.unfinished
    if data.engine is Engine.ray:
        _with_ray(config, options)
    elif in_shards and (options.features or isinstance(data, PreprocessConfig)):
        _with_processes(config, options)
    prepare(config, options)  # what is left, and the indices
    return True


def prepare(config: Any, options: PreprocessOptions) -> None:
    """Prepare what is missing, with the features of frozen networks if the options ask for them or for a part."""
    code = recipe_code(config.recipe, "data")
    only_features = options.part and not isinstance(config.preprocess, PreprocessConfig)
    if not only_features:
        code.preprocess(config, options)
    if options.features or only_features:
        task = recipe_code(config.recipe, "task")
        code.training_data(config, task.load_frozen(config) if hasattr(task, "load_frozen") else Frozen())


def compute_part(config: Any, options: PreprocessOptions, part: Part) -> stages.Report:
    """Compute one part in a process of its own, which prints nothing but the progress bars of the first part."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        if part.index:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        report = stack.enter_context(stages.only(part, quiet=part.index != 0))
        prepare(config, options)
    return report


def _with_processes(config: Any, options: PreprocessOptions) -> None:
    """Share the shards between processes of this machine, one for each GPU if there are any, where they pay."""
    gpus = torch.cuda.device_count() if config.train.accelerator != "cpu" else 0
    count = max(min(config.preprocess.num_workers, os.cpu_count() or 1), gpus)
    if count < 2:
        return
    if not gpus:
        count = min(count, compute_part(config, options, NO_PART).missing_rows // ROWS_OF_PROCESS)
    if count < 2:
        return
    with parallel.interrupts_blocked():
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), parallel.start_worker)
        futures = [pool.submit(_on_gpu, config, options, Part(index, count), gpus) for index in range(count)]
    try:
        for future in futures:
            future.result()
    except BrokenProcessPool as error:
        raise MemoryError("a preprocessing process was killed; try preprocess.num_workers=1") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_gpu(config: Any, options: PreprocessOptions, part: Part, gpus: int) -> None:
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(part.index % gpus)  # before this process uses CUDA
    compute_part(config, options, part)


def _with_ray(config: Any, options: PreprocessOptions) -> None:
    """Share the shards between the workers of a Ray cluster, which need the same folders and packages.

    Only the numbers of parts travel through Ray.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        remedy = 'pip install ".[ray]", or use preprocess.engine=local'
        raise UserError(f"preprocess.engine=ray: Ray is not installed: {remedy}") from error
    gpus = torch.cuda.device_count() if config.train.accelerator != "cpu" else 0
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one of ours
    address = config.preprocess.ray_address or None
    _check_reachable(address)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise UserError(f"preprocess.ray_address {config.preprocess.ray_address}: no Ray cluster there") from error
    try:
        workers = max(1, config.preprocess.num_workers)
        parts = workers * PARTS_OF_WORKER
        actors = ray.data.ActorPoolStrategy(size=workers)
        numbers = ray.data.from_items(list(range(parts)), override_num_blocks=parts)
        done = numbers.map_batches(
            RayWorker, fn_constructor_args=(config, options, parts), batch_size=1, compute=actors, num_cpus=RAY_CPUS,
            num_gpus=1 if gpus else 0,
        )  # fmt: skip
        for _ in tqdm(done.iter_rows(), "parts of the data set", parts, unit="part"):
            pass
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise a UserError if nothing answers at HOST:PORT, for which Ray itself would wait for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address or "")
    if found is None:  # such as auto
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=REACHABLE_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"preprocess.ray_address {address}: no Ray cluster there ({first_line(error)})") from error


class RayWorker:
    """Computes the parts whose numbers it gets from Ray."""

    def __init__(self, config: Any, options: PreprocessOptions, parts: int) -> None:
        self.config, self.options, self.parts = config, options, parts

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for number in batch["item"]:
            compute_part(self.config, self.options, Part(int(number), self.parts))
        return batch


def _print_part(report: stages.Report) -> None:
    """Print what other parts have left to do."""
    for name, (done, count) in report.unfinished.items():
        message(f"{name}: {done} of {count} shards are done")
    if report.unfinished:
        print(f"part {report.part} is done; run the same command without --part when all parts are")
    else:
        print(f"part {report.part} is done, and so are all others")
