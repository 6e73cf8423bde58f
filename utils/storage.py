"""Folders from which shards are read: of this machine, or of an object store (see `remote_storage`)."""

from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """A folder of files that are read as local files."""

    name: str  # path or address, for messages

    def fetch(self, file: str, checksum: str = "") -> Path:
        """Return a local path with the content of a file of the folder; it may not exist.

        Args:
            checksum: SHA-256 of the content, checked where it is copied; empty if unknown.
        """
        ...


class LocalStorage:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def fetch(self, file: str, checksum: str = "") -> Path:
        return self.folder / file


def open_storage(place: Path | str) -> Storage:
    """Open a folder, or an address such as s3://bucket/folder."""
    return LocalStorage(Path(place))
