"""One process at a time: the others wait, and a process that was killed blocks nobody."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None


@contextlib.contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Only one process at a time is inside this context of the same `path`; one line says so when it has to wait.

    The lock ends with the process that holds it. It reaches as far as the file system's locks do: where there are
    none, a line says so and nobody waits.

    Args:
        path: the lock's file, made where it is absent; it stays.
        doing: what the holder does, for the line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _wait(file, doing)
        yield  # closing the file gives the lock back


def _wait(file: IO[str], doing: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process is {doing}: waiting for it", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some cluster file systems
        print(f"{file.name}: cannot be locked ({error.strerror}): {doing} without a lock", file=sys.stderr)
