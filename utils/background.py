"""Threads for work that is wanted soon, such as downloads of files that are needed next."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable

from sonolume.utils.errors import UserError

THREADS = 4
MOST_WAITING = 1024  # further work replaces the oldest

_waiting: deque[Callable[[], None]] = deque(maxlen=MOST_WAITING)
_changed = threading.Condition()
_threads: list[threading.Thread] = []
_unfinished = 0


def start(work: Callable[[], None]) -> None:
    """Run a function in a thread of this process, and return at once; functions run in the order of the calls.

    It is forgotten if a thousand others were started since and still wait, or if the process ends before. A UserError
    or OSError that it raises is dropped: whoever needs the result does the work again, and meets the error.
    """
    global _unfinished
    with _changed:
        if len(_waiting) < MOST_WAITING:
            _unfinished += 1
        _waiting.append(work)
        if len(_threads) < min(THREADS, _unfinished):
            _threads.append(threading.Thread(target=_run, daemon=True, name="background"))
            _threads[-1].start()
        _changed.notify_all()


def wait() -> None:
    """Wait until all that was started is done."""
    with _changed:
        _changed.wait_for(lambda: not _unfinished)


def _run() -> None:
    global _unfinished
    while True:
        with _changed:
            _changed.wait_for(lambda: bool(_waiting))
            work = _waiting.popleft()
        try:
            with contextlib.suppress(UserError, OSError):
                work()
        finally:
            with _changed:
                _unfinished -= 1
                _changed.notify_all()


def _forget() -> None:
    """In a forked process, which has none of these threads."""
    global _changed, _unfinished
    _changed, _unfinished = threading.Condition(), 0
    _waiting.clear()
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
