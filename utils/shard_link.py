"""Data sets whose shards are in an object store: all their folders are uploaded, and linked on other machines.

    {address}/folders.json                    the folders of shards below it
    {address}/shards.json                     settings of the data set
    {address}/cache/latents_.../index.json    and its shards

A link is a folder with the indices and, next to each of them, an address.json. Training reads it like any data set.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sonolume.utils import files
from sonolume.utils.download_cache import CacheSettings
from sonolume.utils.errors import UserError
from sonolume.utils.remote_storage import MissingFileError, RemoteStorage
from sonolume.utils.shard_upload import Uploaded, open_store, upload
from sonolume.utils.shards import INDEX_FILE
from sonolume.utils.storage import ADDRESS_FILE, FOLDERS_FILE, SHARDS_FILE


def shard_folders(folder: Path) -> list[str]:
    """Find the folders of complete shards below a data set, as relative POSIX paths."""
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob(INDEX_FILE))


def upload_all(folder: Path, address: str, progress: Callable[[int], Any] = lambda _: None) -> Uploaded:
    """Copy a data set with all its folders of shards to an address.

    Raises:
        UserError: as `upload`; or another data set is at the address.
    """
    total, found = Uploaded(), shard_folders(folder)
    settings = sorted(path.name for path in folder.glob("*.json"))
    storage = open_store(address, folder)
    if SHARDS_FILE in settings:
        _check_same(storage, folder)
    for one in found:
        done = upload(folder / one, f"{address.rstrip('/')}/{one}", progress)
        total.sent, total.present, total.bytes = (
            total.sent + done.sent, total.present + done.present, total.bytes + done.bytes
        )  # fmt: skip
    for name in settings:
        storage.upload(folder / name, name)
    with TemporaryDirectory() as temporary:
        files.write_json(Path(temporary) / FOLDERS_FILE, {"folders": found, "settings": settings})
        storage.upload(Path(temporary) / FOLDERS_FILE, FOLDERS_FILE)
    return total


def _check_same(storage: RemoteStorage, folder: Path) -> None:
    """Raise a UserError if the store has another data set."""
    try:
        found = files.read_json(storage.fetch(SHARDS_FILE), "the settings of an uploaded data set")
    except MissingFileError:
        return
    if found != files.read_json(folder / SHARDS_FILE):
        raise UserError(f"{storage.name}: another data set was uploaded there ({SHARDS_FILE} differs): choose another "
                        "address, or remove it first")  # fmt: skip


def link(address: str, folder: Path) -> Iterator[str]:
    """Make a folder of which a data set is read whose shards are at an address; yields each folder of shards.

    Raises:
        UserError: the folder exists, or there is no uploaded data set at the address.
    """
    if folder.exists():
        raise UserError(f"{folder}: exists already: choose another folder")
    address = address.rstrip("/")
    storage = RemoteStorage(address, CacheSettings.from_environment())
    listed = files.read_json(storage.fetch(FOLDERS_FILE), "the folders of an uploaded data set")
    with files.atomic_folder(folder) as unfinished:
        for one in listed["folders"]:
            place = unfinished / one
            place.mkdir(parents=True)
            storage.download(f"{one}/{INDEX_FILE}", place / INDEX_FILE)
            files.write_json(place / ADDRESS_FILE, {"address": f"{address}/{one}"})
            yield one
        for name in listed["settings"]:
            storage.download(name, unfinished / name)
