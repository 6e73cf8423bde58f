"""Results computed once and kept on disk, under a hash of all that made them; of several processes one computes."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from sonolume.utils import files

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None

HASH_LENGTH = 12  # hexadecimal digits


def cached(folder: Path, key: Any, make: Callable[[Path], None], what: str) -> Path:
    """The folder {folder}/{what}-{hash of key}, filled by `make` where it is not there yet; it is whole or absent.

    Args:
        folder: of the caches of one data set.
        key: everything that decides the content, as `content_hash` takes it.
        make: fills an empty folder.
        what: what is computed, in a few words; begins the name, and is printed by processes that wait.
    """
    place = folder / f"{files.safe_name(what)}-{content_hash(key)}"
    if place.is_dir():
        return place
    with locked(folder / ".lock", f"computing {what} in {folder}"):
        if not place.is_dir():  # another process may have made it meanwhile
            with files.atomic_folder(place) as unfinished:
                make(unfinished)
    return place


def content_hash(*content: Any) -> str:
    """Twelve hexadecimal digits that change with the content.

    Args:
        content: plain values; paths, which stand for the name and the bytes of a file; bytes; arrays and tensors, which
            stand for their values (tensors as float32); lists and generators of all these.
    """
    digest = hashlib.sha256()
    for one in content:
        _update(digest, one)
    return digest.hexdigest()[:HASH_LENGTH]


def _update(digest: Any, content: Any) -> None:
    if isinstance(content, Path):
        with content.open("rb") as file:
            digest.update(content.name.encode() + hashlib.file_digest(file, "sha256").digest())
    elif isinstance(content, bytes):
        digest.update(content)
    elif hasattr(content, "detach"):  # a tensor; this module does not import torch
        digest.update(content.detach().float().cpu().numpy().tobytes())
    elif hasattr(content, "tobytes"):
        digest.update(content.tobytes())
    else:
        try:
            digest.update(json.dumps(content, sort_keys=True).encode())
        except TypeError:  # holds something that is not plain
            for one in content:
                _update(digest, one)


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Only one process at a time is inside this context of the same `path`; a line is printed where one has to wait.

    The lock ends with the process that holds it. It reaches as far as the file system's locks do: where there are
    none, a line says so and nobody waits.

    Args:
        path: the lock's file, created if it is absent; it stays.
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
