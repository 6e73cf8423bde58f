"""What frozen networks say of a data set: computed once, kept on disk under a hash of all that made it."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from sonolume.utils import files, lock


def fingerprint(tensors: Iterable[Tensor]) -> bytes:
    """A hash of weights."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.digest()


def once(folder: Path, doing: str, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` if it is not there yet: whole or absent. Of several processes one makes it.

    Args:
        doing: what `make` does, for the processes that wait.
    """
    if folder.is_dir():
        return folder
    with lock.alone(folder.parent / ".lock", f"{doing} in {folder.parent}"):
        if not folder.is_dir():  # still: the one before may have made it
            with files.atomic_folder(folder) as unfinished:
                make(unfinished)
    return folder
