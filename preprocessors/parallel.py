"""Parallel work on many items, in processes that do not outlive the main one."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(
    work: Callable[[Item], Result], items: Sequence[Item], num_workers: int, title: str, least: int
) -> list[Result]:
    """Apply `work` to all items with a progress bar, and return the results in the order of the items.

    Each process computes with one thread, so that the results are bit-equal for every number of processes.

    Args:
        num_workers: processes at most, and no more than cores; with 0 or 1 the main process does all the work.
        least: items for which a process is worth its start.

    Raises:
        MemoryError: the system killed a process.
    """
    most = max(2, os.cpu_count() or 1)  # more only cost time and memory: each imports torch
    num_workers, bar = min(num_workers, most, len(items) // least), {"total": len(items), "desc": title, "unit": "clip"}
    if num_workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return list(tqdm(map(work, items), **bar))
        finally:
            torch.set_num_threads(threads)
    context = multiprocessing.get_context("spawn")  # forking after torch has started its threads can hang
    with ProcessPoolExecutor(num_workers, context, initializer=_start_worker) as pool:
        try:
            with _interrupts_blocked():  # processes start here, and inherit it
                results = pool.map(work, items, chunksize=max(1, min(32, len(items) // (4 * num_workers))))
            return list(tqdm(results, **bar))
        except BrokenProcessPool as error:
            raise MemoryError("a preprocessing process was killed; try preprocess.num_workers=1") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupted run waits for the current items only


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back inside the block; processes started there never get it: the main process handles it."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the main process is killed; without this a worker waits for work forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
