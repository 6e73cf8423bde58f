"""Folder of downloaded files of bounded size, shared by all processes of a machine.

The files that were used least recently are deleted first. On POSIX systems a file that a process has mapped stays
readable for it after that; Windows does not delete it.
"""

import contextlib
import errno
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sonolume.utils import files
from sonolume.utils.cache import locked
from sonolume.utils.errors import UserError

CACHE_FOLDER = "SONOLUME_SHARD_CACHE"  # environment variables: both belong to a machine, not to a config
CACHE_GB = "SONOLUME_SHARD_CACHE_GB"
DEFAULT_GB = 50.0
LOCKS = 4096  # files of locks; two downloads rarely share one
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_thread_locks: dict[Path, threading.Lock] = {}  # locks of files exclude processes only
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread_locks.clear)  # a thread of the parent may hold one


@dataclass(frozen=True)
class CacheSettings:
    """Where the files of object stores are kept, and how many bytes at most, besides those being downloaded."""

    folder: Path
    max_bytes: int

    @classmethod
    def from_environment(cls) -> "CacheSettings":
        """Read SONOLUME_SHARD_CACHE (default ~/.cache/sonolume/shards) and SONOLUME_SHARD_CACHE_GB (default 50)."""
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(os.environ.get(CACHE_FOLDER) or base / "sonolume" / "shards").expanduser()
        given = os.environ.get(CACHE_GB) or str(DEFAULT_GB)
        try:
            return cls(folder, int(float(given) * 1e9))
        except (ValueError, OverflowError) as error:
            raise UserError(f"{CACHE_GB}={given}: is not a size: give the gigabytes as a number") from error


class DownloadCache:
    """Files by name; one process of a machine downloads a file, the others wait for it."""

    def __init__(self, settings: CacheSettings) -> None:
        self.settings = settings
        self._unread: dict[str, int] = {}  # bytes of the files fetched ahead of their use

    def get(self, name: str, download: Callable[[Path], None]) -> Path:
        """Return the path of a file, downloaded if it is not there.

        Args:
            name: the same for the same content only.
            download: writes the content to a path.

        Raises:
            UserError: the disk is full; and what `download` raises.
        """
        self._unread.pop(name, None)
        return self._get(name, download, wait=True)

    def get_ahead(self, name: str, download: Callable[[Path], None]) -> None:
        """Download a file before it is needed, unless half of the cache holds files that nobody has used yet.

        Raises:
            UserError: as of `get`; or another process downloads the file.
        """
        if 2 * sum(list(self._unread.values())) <= self.settings.max_bytes:
            path = self._get(name, download, wait=False)
            with contextlib.suppress(FileNotFoundError):
                self._unread[name] = path.stat().st_size

    def refresh(self, name: str, download: Callable[[Path], None]) -> Path:
        """Download a file whose content may have changed, and return its path."""
        path = self.settings.folder / name
        with self._disk(), _exclusive(self._lock(name), wait=True), files.atomic_path(path) as temporary:
            download(temporary)
        return path

    def _get(self, name: str, download: Callable[[Path], None], wait: bool) -> Path:
        path = self.settings.folder / name
        if _mark_used(path):
            return path
        with self._disk(), _exclusive(self._lock(name), wait):
            if not _mark_used(path):  # another process may have downloaded it meanwhile
                with files.atomic_path(path) as temporary:
                    download(temporary)
                    _flush(temporary)
        self._shrink(path)
        return path

    def _lock(self, name: str) -> Path:
        return self.settings.folder / "locks" / f"{zlib.crc32(name.encode()) % LOCKS:04d}"

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            self.settings.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            remedy = f"free some space, or set {CACHE_FOLDER} to another folder or {CACHE_GB} to fewer gigabytes"
            raise UserError(f"{self.settings.folder}: no space left for the cache of shards: {remedy}") from error

    def _shrink(self, newest: Path) -> None:
        """Delete the files that were used least recently until the size is kept; never the newest."""
        found = sorted(_entries(self.settings.folder))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self.settings.max_bytes:
                return
            if path != newest:
                with contextlib.suppress(OSError):  # mapped, on Windows
                    path.unlink(missing_ok=True)
                    total -= size


def _entries(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Time of last use, bytes and path of each complete file."""
    with os.scandir(folder) as found:
        for one in found:
            if not one.name.startswith(files.TEMPORARY):
                with contextlib.suppress(FileNotFoundError):  # another process has deleted it
                    facts = one.stat()
                    if one.is_file():
                        yield facts.st_mtime_ns, facts.st_size, Path(one.path)


def _mark_used(path: Path) -> bool:
    """Note the time of use of a file in its time of modification; false if there is no such file."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _flush(path: Path) -> None:
    """Write to the disk: after a power cut a file is whole or not there."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _exclusive(path: Path, wait: bool) -> Iterator[None]:
    """Let one thread of one process at a time into the block; without `wait`, a UserError if it is not ours."""
    with _thread_locks.setdefault(path, threading.Lock()), locked(path, "downloading the file", wait, quiet=True):
        yield
