"""Work on many items in several processes, none of which outlives the main one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered(work: Callable[[Item], Result], items: Sequence[Item], num_workers: int) -> Iterator[Result]:
    """Results in the order of the items; `num_workers` processes, none but this one for 0 or 1.

    Each process computes with one thread, so that results are the same, bit by bit, however many there are.

    Raises:
        MemoryError: the system killed a process.
    """
    if num_workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from map(work, items)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")  # forking after torch has started its threads can hang
    with ProcessPoolExecutor(num_workers, context, initializer=_start_worker) as pool:
        try:
            yield from pool.map(work, items, chunksize=max(1, min(32, len(items) // (4 * num_workers))))
        except BrokenProcessPool as error:
            raise MemoryError("a preprocessing process was killed; try preprocess.num_workers=1") from error


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered once, by the main process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
