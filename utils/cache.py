"""Disk cache keyed by a hash of everything that determines the content; one process computes, the others wait."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sonolume.utils import files
from sonolume.utils.errors import UserError
from sonolume.utils.text import message

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None

HASH_LENGTH = 12  # hexadecimal digits


def cached(folder: Path, key: Any, make: Callable[[Path], None], what: str) -> Path:
    """Return the folder {folder}/{what}-{hash of key}, created atomically by `make` if it does not exist.

    Args:
        folder: parent of all caches of one data set.
        key: everything that determines the content; any argument of `content_hash`.
        make: fills an empty folder.
        what: the content in a few words; begins the folder name and appears in the message of waiting processes.
    """
    place = folder / f"{files.safe_name(what)}-{content_hash(key)}"
    if not place.is_dir():
        with locked(folder / ".lock", f"computing {what} in {folder}"):
            if not place.is_dir():  # another process may have created it meanwhile
                with files.atomic_folder(place) as unfinished:
                    make(unfinished)
    return place


def content_hash(*content: Any) -> str:
    """Hash any content to twelve hexadecimal digits.

    Content is plain values (as JSON), paths (name and bytes of the file), bytes, values of arrays and of tensors (as
    float32), and lists, dictionaries and generators of these.
    """
    digest = hashlib.sha256()
    for one in content:
        _update(digest, one)
    return digest.hexdigest()[:HASH_LENGTH]


def _update(digest: Any, content: Any) -> None:
    if isinstance(content, Path):
        with content.open("rb") as file:
            digest.update(os.fsencode(content.name) + hashlib.file_digest(file, "sha256").digest())
    elif isinstance(content, bytes):
        digest.update(content)
    elif hasattr(content, "detach"):  # a tensor; this module does not import torch
        digest.update(content.detach().float().cpu().numpy().tobytes())
    elif hasattr(content, "tobytes"):
        digest.update(content.tobytes())
    else:
        try:
            digest.update(json.dumps(content, sort_keys=True).encode())
        except TypeError:  # not plain values only
            for one in content.items() if isinstance(content, dict) else content:
                _update(digest, one)


@contextlib.contextmanager
def locked(path: Path, doing: str, wait: bool = True, quiet: bool = False) -> Iterator[None]:
    """Let one process at a time into the block; the others print a line and wait, or are refused.

    The lock ends with the process that holds it: its children do not inherit it, as they would that of `flock`. On a
    file system without locks a warning is printed and nobody waits. The file `path` is never removed. `doing` is the
    work of the holder, such as "computing latents", for the message. With `quiet`, nothing is printed.

    Raises:
        UserError: another process is in the block, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            if not wait:
                raise UserError(f"another process is {doing}: wait for it, stop it or choose another name") from error
            if not quiet:
                message(f"another process is {doing}: waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX)  # type: ignore[union-attr]
        except OSError as error:  # some cluster file systems
            if not quiet:
                message(f"{path}: cannot be locked ({error.strerror}): {doing} without a lock")
        yield  # closing the file releases the lock
