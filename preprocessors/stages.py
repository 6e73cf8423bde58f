"""Stages of preprocessing: features that are computed shard by shard, by one process or by several that share them.

A stage is run by `compute`, which skips the shards that are done. Under `only(part)` a process computes every n-th
shard and leaves the others to processes with other parts; whoever finds all shards done writes the index. The bytes of
a shard depend on none of this: each network call has one thread and the same batch.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from sonolume.config.base import TrainConfig
from sonolume.config.part import Part
from sonolume.utils import files, shards
from sonolume.utils.cache import content_hash, locked
from sonolume.utils.shards import SHARD_ROWS, Shards, ShardWriter

Progress = Callable[[int], Any]  # counts rows
Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Stage:
    """Features of many rows.

    Args:
        name: such as "latents of train"; begins the name of the folder, and appears in messages.
        key: everything that determines the content; any argument of `content_hash`.
        sizes: returns the number of input rows of each shard; called only if shards are missing.
        write: computes one shard of a range of input rows; calls `progress(n)` after every n rows.
        setup: a context for all shards of one process, such as a network on its device.
    """

    name: str
    key: Any
    sizes: Callable[[], Sequence[int]]
    write: Callable[[ShardWriter, range, Progress], None]
    setup: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)

    def folder(self, parent: Path) -> Path:
        """Folder of the shards: {parent}/{name}-{hash of the key}."""
        return parent / f"{files.safe_name(self.name)}-{self._hash}"

    @cached_property
    def _hash(self) -> str:
        return content_hash(self.key)  # of a million rows it takes seconds


@dataclass
class Report:
    """Part of this process, and the stages with shards that other parts have not finished."""

    part: Part = field(default_factory=Part)
    quiet: bool = False  # without progress bars
    unfinished: dict[str, tuple[int, int]] = field(default_factory=dict)  # stage -> (shards done, all shards)
    missing_rows: int = 0  # of the shards that are not done


_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def only(part: Part, quiet: bool = False) -> Iterator[Report]:
    """Inside the block, `compute` computes the shards of one part; `quiet` hides its progress bars."""
    report = Report(part, quiet)
    token = _report.set(report)
    try:
        yield report
    finally:
        _report.reset(token)


def is_partial() -> bool:
    """Whether this process computes one of several parts."""
    report = _report.get()
    return report is not None and report.part.count > 1


def is_complete() -> bool:
    """Whether all shards that `compute` has opened are done, also those of other parts."""
    report = _report.get()
    return report is None or not report.unfinished


def sizes_of(rows: int, shard_rows: int = SHARD_ROWS) -> list[int]:
    """Divide rows into shards: all of `shard_rows` rows but the last."""
    return [min(shard_rows, rows - start) for start in range(0, rows, shard_rows)]


def compute(stage: Stage, parent: Path) -> Shards:
    """Compute the shards of a stage that are not done, and open all of them.

    Other processes that compute all shards wait for this one. Under `only`, nobody waits, and shards of other parts
    that are not done have no rows.
    """
    place, report = stage.folder(parent), _report.get() or Report()
    if (place / shards.INDEX_FILE).is_file():
        return Shards(place)
    if report.part.count > 1:
        return _compute(stage, place, report)
    with locked(parent / ".lock", f"computing {stage.name} in {parent}"):
        if (place / shards.INDEX_FILE).is_file():  # another process has computed them meanwhile
            return Shards(place)
        return _compute(stage, place, report)


def _compute(stage: Stage, place: Path, report: Report) -> Shards:
    """Compute the shards of a part, write the index if all are done, and open them."""
    sizes = stage.sizes()
    _compute_missing(stage, sizes, place, report)
    missing = [number for number in range(len(sizes)) if not shards.is_done(place, number)]
    if missing:
        report.unfinished[stage.name] = len(sizes) - len(missing), len(sizes)
        report.missing_rows += sum(sizes[number] for number in missing)
        return Shards.of_done(place, len(sizes))
    shards.write_index(place, len(sizes), {"stage": stage.name})
    return Shards(place)


def _compute_missing(stage: Stage, sizes: Sequence[int], place: Path, report: Report) -> None:
    ends = list(itertools.accumulate(sizes))
    numbers = [number for number in range(len(ends)) if report.part.has(number) and not shards.is_done(place, number)]
    if not numbers:
        return
    rows = sum(sizes[number] for number in numbers)
    with stage.setup(), one_thread(), tqdm(total=rows, desc=stage.name, unit="row", disable=report.quiet) as bar:
        for number in numbers:
            with ShardWriter(place, number) as writer:
                stage.write(writer, range(ends[number] - sizes[number], ends[number]), bar.update)
                writer.finish()


_threads: ContextVar[int] = ContextVar("threads", default=1)  # of `in_threads`


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block, torch computes with one thread, and `in_threads` with as many as torch had before."""
    threads = torch.get_num_threads()
    token = _threads.set(threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _threads.reset(token)


def in_threads(
    function: Callable[[Input], Output], items: Iterable[Input], device: torch.device | str = "cpu"
) -> Iterator[Output]:
    """Apply a function that computes with torch to all items, several at once on a CPU; the results in order.

    The items are read in this thread. Each call has one thread of torch, so that results do not depend on the number
    of cores.
    """
    count = _threads.get() if torch.device(device).type == "cpu" else 1
    if count == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Output]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def device_of(train: TrainConfig) -> torch.device:
    """The device on which frozen networks compute features before training."""
    return torch.device("cuda" if train.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def on_device(device: torch.device, *networks: torch.nn.Module | None) -> Iterator[None]:
    """Keep networks on a device inside the block, and on the CPU afterwards."""
    for network in filter(None, networks):
        network.to(device)
    yield
    for network in filter(None, networks):
        network.to("cpu")
