"""Folders from which shards are read: of this machine, or of an object store (see `remote_storage`)."""

from pathlib import Path
from typing import Protocol

from sonolume.utils import files
from sonolume.utils.download_cache import CacheSettings

ADDRESS_FILE = "address.json"  # of a folder whose shards are elsewhere
SHARDS_FILE = "shards.json"  # of a data set whose clips are in shards: settings, and the folder of each split
FOLDERS_FILE = "folders.json"  # of an uploaded data set: its folders of shards


class Storage(Protocol):
    """A folder of files that are read as local files. Instances can be pickled and survive a fork."""

    name: str  # path or address, for messages
    remedy: str  # for a damaged file

    def fetch(self, file: str, checksum: str = "") -> Path:
        """Return a local path with the content of a file of the folder; it may not exist.

        Args:
            checksum: SHA-256 of the content, checked where it is copied; empty if unknown.
        """
        ...

    def prefetch(self, file: str, checksum: str) -> None:
        """Start in the background what makes a later `fetch` fast, and return at once."""
        ...


class LocalStorage:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)
        self.remedy = f"run `sonolume shards verify {folder} --remove`, and prepare again"

    def fetch(self, file: str, checksum: str = "") -> Path:
        return self.folder / file

    def prefetch(self, file: str, checksum: str) -> None:
        """Nothing: the file is read where it lies."""


class LinkedStorage:
    """A folder of this machine with some of the files, and the address of the others."""

    def __init__(self, folder: Path, remote: Storage) -> None:
        self.folder, self.remote = folder, remote
        self.name, self.remedy = remote.name, remote.remedy

    def fetch(self, file: str, checksum: str = "") -> Path:
        return self.folder / file if (self.folder / file).is_file() else self.remote.fetch(file, checksum)

    def prefetch(self, file: str, checksum: str) -> None:
        self.remote.prefetch(file, checksum)


def is_address(place: Path | str) -> bool:
    """Whether this is an address such as s3://bucket/folder, not a path."""
    return isinstance(place, str) and "://" in place


def linked_address(folder: Path) -> str | None:
    """The address of a folder that `sonolume shards link` made; None for others."""
    link = folder / ADDRESS_FILE
    return str(files.read_json(link, "the address of shards").get("address")) if link.is_file() else None


def open_storage(place: Path | str, cache: CacheSettings | None = None) -> Storage:
    """Open a folder, or an address such as s3://bucket/folder, whose files are cached.

    A folder with `ADDRESS_FILE`, as `sonolume shards link` makes it, reads the files that it lacks from there.

    Args:
        cache: default: `CacheSettings.from_environment()`; not used for folders.
    """
    if is_address(place):
        return _open_address(str(place), cache)
    if address := linked_address(Path(place)):
        return LinkedStorage(Path(place), _open_address(address, cache))
    return LocalStorage(Path(place))


def _open_address(address: str, cache: CacheSettings | None) -> Storage:
    from sonolume.utils.remote_storage import RemoteStorage

    return RemoteStorage(address, cache or CacheSettings.from_environment())
