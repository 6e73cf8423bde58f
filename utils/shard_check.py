"""Finds damaged shards, and summarises what a folder of shards holds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sonolume.utils import files
from sonolume.utils.download_cache import CacheSettings
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.remote_storage import MissingFileError, RemoteStorage
from sonolume.utils.shards import INDEX_FILE, Shards, check_form, done_name, file_name
from sonolume.utils.storage import ADDRESS_FILE, FOLDERS_FILE, is_address, linked_address

DONE = done_name(0).removeprefix("00000")  # end of the names


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written; `shard` is None for the index."""

    shard: int | None
    file: str
    what: str


@dataclass(frozen=True)
class Check:
    """A file to be checked."""

    shard: int
    file: str
    checksum: str


def folders(place: Path | str) -> list[Path | str]:
    """The folders of shards of a place: itself, or those below a data set; a link is replaced by its address.

    Raises:
        UserError: there are none.
    """
    if is_address(place):
        return _uploaded_folders(str(place))
    folder = Path(place)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    marks = (INDEX_FILE, f"*{DONE}", ADDRESS_FILE)
    found = sorted({path.parent for mark in marks for path in folder.rglob(mark)})
    if not found:
        raise UserError(f"{folder}: contains no shards: expected {INDEX_FILE} or files such as {done_name(0)}")
    return [linked_address(one) or one for one in found]


def _uploaded_folders(address: str) -> list[Path | str]:
    storage = RemoteStorage(address, CacheSettings.from_environment())
    try:
        listed = files.read_json(storage.fetch(FOLDERS_FILE), "the folders of an uploaded data set")["folders"]
    except MissingFileError:
        return [address]  # of one folder
    return [f"{storage.name}/{one}" for one in listed]


def checks(place: Path | str) -> tuple[list[Check], list[Damage]]:
    """List the files of columns of a folder or address, and what is wrong without reading them.

    Of a folder, those of all shards that are done, whether or not there is an index; of an address, those of the index.

    Raises:
        UserError: there are no shards.
    """
    if is_address(place):
        return [Check(part.number, file_name(part.number, column), checksum)
                for part in Shards(place).parts for column, checksum in part.checksums.items()], []  # fmt: skip
    folder, found, wrong = Path(place), list[Check](), list[Damage]()
    index = _index(folder, wrong)
    written = [file.name.removesuffix(DONE) for file in folder.glob(f"*{DONE}")]
    numbers = {int(number) for number in written if number.isdecimal()}
    if not numbers and not index and not wrong:
        raise UserError(f"{folder}: contains no shards: expected {INDEX_FILE} or files such as {done_name(0)}")
    for number in sorted(numbers | set(range(len(index)))):
        try:
            checksums = files.read_json(folder / done_name(number), "a shard that is done")["checksums"]
        except (UserError, KeyError) as error:
            wrong.append(Damage(number, done_name(number), _describe(error, folder / done_name(number))))
            continue
        if number < len(index) and index[number]["checksums"] != checksums:
            wrong.append(Damage(number, INDEX_FILE, f"is of other files than {done_name(number)}"))
        found += [Check(number, file_name(number, column), checksum) for column, checksum in checksums.items()]
    return found, wrong


def _index(folder: Path, wrong: list[Damage]) -> list[dict[str, Any]]:
    """Shards of the index, [] if there is none."""
    if not (folder / INDEX_FILE).exists():
        return []
    try:
        index = files.read_json(folder / INDEX_FILE, "the index of shards")
        if "shards" in index:
            check_form(index, str(folder / INDEX_FILE))
        return index["shards"]
    except (UserError, KeyError) as error:
        wrong.append(Damage(None, INDEX_FILE, _describe(error, folder / INDEX_FILE)))
        return []


def _describe(error: Exception, path: Path) -> str:
    if isinstance(error, KeyError):
        return f"is damaged: it has no {error}"
    return first_line(error).removeprefix(f"{path}: ")


def find_damage(place: Path | str, listed: Iterable[Check]) -> Iterator[Damage | None]:
    """Compare each file with its checksum; yields None for one that is as it was written."""
    if is_address(place):
        storage = RemoteStorage(str(place), CacheSettings.from_environment())
        with TemporaryDirectory() as temporary:
            for check in listed:
                yield _compare(check, _downloaded(storage, check, Path(temporary)))
    else:
        yield from (_compare(check, Path(place) / check.file) for check in listed)


def _downloaded(storage: RemoteStorage, check: Check, folder: Path) -> Path:
    """A copy that replaces the one before; it does not exist if the store has no such file."""
    path = folder / "file"
    path.unlink(missing_ok=True)
    try:
        storage.download(check.file, path)
    except MissingFileError:
        path.unlink()
    return path


def _compare(check: Check, path: Path) -> Damage | None:
    if not path.is_file():
        return Damage(check.shard, check.file, "is missing")
    if files.checksum(path) != check.checksum:
        return Damage(check.shard, check.file, "is cut off or changed: its SHA-256 is another")
    return None


def remove(folder: Path, damages: Iterable[Damage]) -> None:
    """Remove the done.json of damaged shards and the index, so that the next preparation computes these shards."""
    for damage in damages:
        if damage.shard is not None:
            (folder / done_name(damage.shard)).unlink(missing_ok=True)
        (folder / INDEX_FILE).unlink(missing_ok=True)


def summary(place: Path | str) -> list[str]:
    """Lines on what a folder or address holds: rows, columns with types and bytes, rows left out, and what made it."""
    shards = Shards(place)
    lines = [f"{place}: {len(shards):,} rows in {len(shards.parts):,} shards"]
    sizes = _sizes(place)
    listed = [(name, str(kind), f"{_bytes_of(name, sizes) / 1e6:,.1f} MB") for name, kind in shards.columns.items()]
    widths = [max(len(row[column]) for row in listed) for column in range(3)] if listed else []
    lines += [f"  {row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}" for row in listed]
    lines += [f"left out: {count:,} rows: {reason}" for reason, count in shards.left_out.most_common()]
    made_by = ", ".join(f"{key}: {value}" for facts in shards.made_by for key, value in facts.items())
    return lines + ([f"made by: {made_by}"] if made_by else [])


def _sizes(place: Path | str) -> dict[str, int]:
    if is_address(place):
        return RemoteStorage(str(place), CacheSettings.from_environment()).sizes()
    return {file.name: file.stat().st_size for file in Path(place).glob("*.npy")}


def _bytes_of(column: str, sizes: dict[str, int]) -> int:
    """Bytes of the files of a column, with those of its ends."""
    wanted = {column, f"{column}.ends"}
    return sum(size for name, size in sizes.items() if name.partition(".")[2].removesuffix(".npy") in wanted)
