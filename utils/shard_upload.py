"""Copies a folder of shards to an object store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sonolume.utils import files
from sonolume.utils.download_cache import CacheSettings
from sonolume.utils.errors import UserError
from sonolume.utils.remote_storage import RemoteStorage
from sonolume.utils.shards import INDEX_FILE, Shards, done_name, file_name
from sonolume.utils.storage import is_address

THREADS = 8


@dataclass
class Uploaded:
    """Numbers of files of columns."""

    sent: int = 0
    present: int = 0  # were there already
    bytes: int = 0  # sent


def upload(folder: Path, address: str, progress: Callable[[int], Any] = lambda _: None) -> Uploaded:
    """Copy the shards of a folder to an address; what is there already is not sent again.

    Of each shard the columns are sent first and done.json last, and the index after all shards: whoever finds an index
    finds all its files. A file is taken for present if it has its size, and the done.json that is there its checksum.

    Args:
        progress: called with 1 after each shard.

    Raises:
        UserError: the folder has no index, a file of it is damaged, or the address cannot be written.
    """
    parts, storage = Shards(folder).parts, open_store(address, folder)
    sizes, uploaded = storage.sizes(), Uploaded()
    with TemporaryDirectory() as temporary, ThreadPoolExecutor(THREADS) as pool:

        def send(number: int) -> None:
            _send_shard(folder, number, storage, sizes, Path(temporary), uploaded)
            progress(1)

        jobs = [pool.submit(send, part.number) for part in parts]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    storage.upload(folder / INDEX_FILE, INDEX_FILE)
    return uploaded


def open_store(address: str, folder: Path) -> RemoteStorage:
    """Open the address to which a folder is uploaded; raises a UserError if it is none that can be written."""
    if not is_address(address):
        raise UserError(f"{address}: is not an address such as s3://bucket/folder; copy folders with cp or rsync")
    if address.startswith("hf://"):
        raise UserError(f"{address}: is written with `hf upload-large-folder REPO_ID {folder} --repo-type dataset`")
    return RemoteStorage(address, CacheSettings.from_environment())


def _send_shard(
    folder: Path, number: int, storage: RemoteStorage, sizes: dict[str, int], temporary: Path, uploaded: Uploaded
) -> None:
    done = done_name(number)
    checksums = files.read_json(folder / done, "a shard that is done")["checksums"]
    known = _read_checksums(storage, done, temporary) if done in sizes else {}
    for column, checksum in checksums.items():
        name = file_name(number, column)
        size = (folder / name).stat().st_size if (folder / name).is_file() else -1
        if known.get(column) == checksum and sizes.get(name) == size:
            uploaded.present += 1
            continue
        if size < 0 or files.checksum(folder / name) != checksum:
            raise UserError(f"{folder / name}: is missing or damaged: run `sonolume shards verify {folder}`")
        storage.upload(folder / name, name)
        uploaded.sent += 1
        uploaded.bytes += size
    if known != checksums:
        storage.upload(folder / done, done)


def _read_checksums(storage: RemoteStorage, done: str, temporary: Path) -> dict[str, str]:
    storage.download(done, temporary / done)
    try:
        return files.read_json(temporary / done)["checksums"]
    except (UserError, KeyError):  # of something else: send it again
        return {}
