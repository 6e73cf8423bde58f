"""Parallel work on many items, in processes that do not outlive the main one."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch
from tqdm import tqdm

START_SECONDS = 3.0  # of a process, until it has imported torch: 2 s of a free core, and a margin
FEW, RECENT = 4, 16  # items measured before a decision, unless they take long; and the latest ones that count

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    num_workers: int,
    title: str,
    start_seconds: float = START_SECONDS,
) -> list[Result]:
    """Apply `work` to all items with a progress bar, and return the results in the order of the items.

    The main process begins alone and measures its speed; `num_workers` processes take over the rest when that is
    faster, so a short preparation does not wait for their start. Each process computes with one thread, so that the
    results are bit-equal for every number of processes.

    Args:
        num_workers: processes at most, and no more than cores; with 0 or 1 the main process does all the work.
        start_seconds: time until a process has imported what `work` needs.

    Raises:
        MemoryError: the system killed a process.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = _results(work, items, min(num_workers, _cores()), start_seconds)
        return list(tqdm(results, total=len(items), desc=title, unit="clip"))
    finally:
        torch.set_num_threads(threads)


def processes_worth(seconds: Sequence[float], left: int, most: int, start_seconds: float) -> int:
    """Number of processes that finish the items left soonest, at most `most`; 1 is the main process alone.

    n processes take start_seconds + work / n, so two pay from twice the start on, and each more for one start more.
    (The main process works during their start, which only helps.)

    Args:
        seconds: times of the latest items; the rest are taken for alike.
        left: items that are left.
    """
    if not seconds or (len(seconds) < FEW and sum(seconds) < start_seconds):
        return 1
    work = left * sum(seconds) / len(seconds)
    return max(1, min(most, left, int(work / start_seconds)))


def _results(
    work: Callable[[Item], Result], items: Sequence[Item], most: int, start_seconds: float
) -> Iterator[Result]:
    """The results in order: those of the main process, and from some item on those of several processes.

    The decision is made before every item, because those that an earlier run has prepared take no time. The main
    process goes on until the others are ready: on a busy machine or a slow disk their start takes long.
    """
    seconds: deque[float] = deque(maxlen=RECENT)
    workers: Workers | None = None
    try:
        for number, item in enumerate(items):
            left = len(items) - number
            if workers is None and most > 1 and (count := processes_worth(seconds, left, most, start_seconds)) > 1:
                workers = Workers(work, count)
            if workers and workers.are_ready():
                yield from workers.map(items[number:])
                return
            start = time.perf_counter()
            result = work(item)
            if number:  # the first one loads libraries
                seconds.append(time.perf_counter() - start)
            yield result
    finally:
        if workers:
            workers.close()


class Workers:
    """Processes that start in the background, and then apply `work` to items."""

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        context = multiprocessing.get_context("spawn")  # forking after torch has started its threads can hang
        others = multiprocessing.active_children()
        self.work, self.count, self.used = work, count, False
        self.pool = ProcessPoolExecutor(count, context, initializer=start_worker)
        with interrupts_blocked():  # processes start here, and inherit it
            self.starts = [self.pool.submit(_import, work) for _ in range(count)]
        self.processes = [one for one in multiprocessing.active_children() if one not in others]

    def are_ready(self) -> bool:
        return all(start.done() for start in self.starts)

    def map(self, items: Sequence[Any]) -> Iterator[Any]:
        """Results in order; a MemoryError if the system killed a process."""
        self.used = True
        try:
            yield from self.pool.map(self.work, items, chunksize=max(1, min(32, len(items) // (4 * self.count))))
        except BrokenProcessPool as error:
            raise MemoryError("a preprocessing process was killed; try preprocess.num_workers=1") from error

    def close(self) -> None:
        """End the processes; an interrupted run waits for the current items only."""
        if not self.used:
            for process in self.processes:
                process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)


def _import(work: Callable[[Any], Any]) -> None:
    """Import what `work` needs: a process does so to receive it."""


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back inside the block; processes started there never get it: the main process handles it."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def start_worker() -> None:
    """Prepare a process: it computes with one thread, and ends with its parent."""
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the main process is killed; without this a worker waits for work forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
