"""Shards: columns of features in plain .npy files of 10,000 rows each, with one index.

    {folder}/index.json               rows of each shard, columns, checksums, and what made them
    {folder}/00017.moments.npy        (rows, 8, 5, 39): the values of one shard and column
    {folder}/00017.tokens.npy         a ragged column: the values of all rows one after the other, (values, ...),
    {folder}/00017.tokens.ends.npy    and where those of each row end, (rows,) int64
    {folder}/00017.done.json          the shard is whole: its rows, columns and checksums, and the rows left out

A shard is written under temporary names and ends with its done.json, so that a process may be killed at any moment and
several may write the same shard. Readers map the files into memory. The values of a row are one range of bytes, which
suits object stores. A column that is added later is one more file of each shard.
"""

import contextlib
import json
import os
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from sonolume.utils import files
from sonolume.utils.cache import locked
from sonolume.utils.errors import UserError
from sonolume.utils.storage import Storage, open_storage

FORM = 1  # of index.json; raise it when older code cannot read what newer code writes
SHARD_ROWS = 10_000
INDEX_FILE = "index.json"
ENDS = ".ends"  # of the second file of a ragged column
TEXT = "|S1"  # type of the values of a column of JSON: bytes of UTF-8
MOST_OPEN = 64  # files of one column that are mapped at once


@dataclass(frozen=True)
class ColumnType:
    """Type of the values of a column."""

    dtype: str  # of numpy with byte order, such as "<f2"
    shape: tuple[int, ...]  # of one row; of one value if ragged
    ragged: bool = False

    @property
    def is_json(self) -> bool:
        return self.ragged and self.dtype == TEXT

    def __str__(self) -> str:
        if self.is_json:
            return "JSON"
        shape = " x ".join(map(str, self.shape)) or "one value"
        return f"{np.dtype(self.dtype).name}, {shape}{', ragged' if self.ragged else ''}"


def file_name(shard: int, column: str) -> str:
    """Name of the file of a column."""
    return f"{shard:05d}.{column}.npy"


def done_name(shard: int) -> str:
    """Name of the file that says that a shard is whole."""
    return f"{shard:05d}.done.json"


class ShardWriter:
    """Writes one shard: columns grow by `append`, and `finish` makes the shard whole.

    A context manager, at whose end an unfinished shard leaves nothing behind.

    Args:
        number: of the shard, from 0 on.
        add: write further columns of a shard that is done; its other files stay as they are. Several processes may
            add different columns at once.
    """

    def __init__(self, folder: Path, number: int, add: bool = False) -> None:
        self.folder, self.number, self.add = folder, number, add
        self.left_out: list[dict[str, Any]] = []
        self._temporary = files.temporary_path(folder / f"{number:05d}")
        self._files: dict[str, _GrowingFile] = {}  # by column, those of `ENDS` too

    def __enter__(self) -> "ShardWriter":
        self._temporary.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()
        files.remove(self._temporary)

    @property
    def rows(self) -> int:
        """Number of rows so far, of the longest column."""
        return max((file.rows for name, file in self._files.items() if name + ENDS not in self._files), default=0)

    def append(self, column: str, rows: np.ndarray) -> None:
        """Append rows (n, ...); those of one column have the same dtype and shape."""
        if len(rows):
            self._file(column).append(rows)

    def append_ragged(self, column: str, rows: Sequence[np.ndarray]) -> None:
        """Append rows of different lengths, each (length, ...)."""
        if len(rows):
            values = self._file(column)
            ends = values.rows + np.cumsum([len(row) for row in rows], dtype=np.int64)
            values.append(np.concatenate(list(rows)))
            self._file(column + ENDS).append(ends)

    def append_json(self, column: str, rows: Iterable[Any]) -> None:
        """Append one value of plain JSON in each row, stored as UTF-8 bytes."""
        texts = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        encoded = [text.encode("utf-8", errors="backslashreplace") for text in texts]
        self.append_ragged(column, [np.frombuffer(one, TEXT) for one in encoded])

    def leave_out(self, **facts: Any) -> None:
        """Note a row that could not be used; done.json lists them."""
        self.left_out.append(facts)

    def finish(self) -> None:
        """Give the files their names, and write done.json.

        Raises:
            ValueError: the columns have different numbers of rows, or a column is added and rows are left out.
            UserError: a column is added to a shard that is not done or has another number of rows.
        """
        ragged = [name for name in self._files if name + ENDS in self._files]
        rows = {name: file.rows for name, file in self._files.items() if name not in ragged}
        if len(set(rows.values())) > 1:
            raise ValueError(f"shard {self.number}: columns of different lengths: {rows}")
        types = {name: asdict(file.type(name in ragged)) for name, file in self._files.items() if ENDS not in name}
        for file in self._files.values():
            file.close()
        checksums = {name: files.checksum(file.path) for name, file in self._files.items()}
        done = {"rows": max(rows.values(), default=0), "columns": types, "checksums": checksums}
        self._rename(done | {"left_out": self.left_out})

    def _rename(self, done: dict[str, Any]) -> None:
        """Give the files their names, and write or complete done.json."""
        path = self.folder / done_name(self.number)
        lock = locked(self.folder / ".lock", f"completing {path.name}", quiet=True)
        with lock if self.add else contextlib.nullcontext():
            if self.add:
                done = _merged(path, done)
            elif path.exists() and files.read_json(path).get("checksums") != done["checksums"]:
                path.unlink()  # it does not describe the new files
            for name, file in self._files.items():
                os.replace(file.path, self.folder / file_name(self.number, name))
            files.write_json(path, done)

    def _file(self, column: str) -> "_GrowingFile":
        if column not in self._files:
            self._files[column] = _GrowingFile(self._temporary / file_name(self.number, column))
        return self._files[column]


def _merged(path: Path, added: dict[str, Any]) -> dict[str, Any]:
    """Content of a done.json with further columns."""
    done = files.read_json(path, "a shard that is done")
    if added["left_out"]:
        raise ValueError(f"{path}: rows are left out of a column that is added")
    if added["rows"] != done["rows"]:
        raise UserError(f"{path}: has {done['rows']} rows, the new columns {', '.join(added['columns'])} "
                        f"{added['rows']}: prepare the features again")  # fmt: skip
    return done | {key: done[key] | added[key] for key in ("columns", "checksums")}


class _GrowingFile:
    """A .npy file to which rows are appended; its header is written again at the end, with the number of rows."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._file = path.open("wb")
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()

    def append(self, rows: np.ndarray) -> None:
        if self._dtype is None:
            self._dtype, self._shape = rows.dtype, rows.shape[1:]
            self._write_header()
        elif (rows.dtype, rows.shape[1:]) != (self._dtype, self._shape):
            expected = f"{self._dtype} {self._shape}"
            raise ValueError(f"{self.path.name}: rows of {rows.dtype} {rows.shape[1:]} after rows of {expected}")
        self._file.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def type(self, ragged: bool) -> ColumnType:
        assert self._dtype is not None
        return ColumnType(self._dtype.str, self._shape, ragged)

    def close(self) -> None:
        if not self._file.closed:
            if self._dtype is not None:
                self._file.seek(0)
                self._write_header()  # as long as the first: numpy leaves room for any number of rows
            self._file.close()

    def _write_header(self) -> None:
        assert self._dtype is not None
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


def is_done(folder: Path, shard: int) -> bool:
    """Whether a shard is whole; its checksums are left to `verify`."""
    return (folder / done_name(shard)).is_file()


def write_index(folder: Path, shards: int, made_by: Mapping[str, Any]) -> None:
    """Write the index of a folder whose shards are all done.

    Args:
        made_by: facts on the content, plain JSON.

    Raises:
        UserError: two shards have different columns.
    """
    files.write_json(folder / INDEX_FILE, _index_of_done(folder, shards) | {"made_by": dict(made_by)})


def _index_of_done(folder: Path, shards: int) -> dict[str, Any]:
    """Index of a folder from what its shards say; those that are not done have no rows."""
    listed, columns, first = [], dict[str, Any](), None
    for number in range(shards):
        done = files.read_json(folder / done_name(number)) if is_done(folder, number) else {"rows": 0, "checksums": {}}
        reasons = Counter(str(one.get("reason", "")) for one in done.get("left_out", []))
        listed.append({"rows": done["rows"], "checksums": done["checksums"], "left_out": dict(reasons)})
        if done["rows"] and first is None:
            columns, first = done["columns"], number
        elif done["rows"] and done["columns"] != columns:
            raise UserError(f"{folder}: shard {number} has other columns than shard {first}: remove "
                            f"{done_name(number)} and prepare again")  # fmt: skip
    return {"form": FORM, "rows": sum(one["rows"] for one in listed), "columns": columns, "shards": listed}


@dataclass(frozen=True)
class _Part:
    """A shard of an opened folder."""

    storage: Storage
    number: int
    checksums: Mapping[str, str]  # by column


class Shards:
    """The shards of one or several folders, opened for reading; several are concatenated.

    Only the indices are read: opening takes time and memory for each shard, not for each row.

    Args:
        places: folders, or addresses such as s3://bucket/folder.

    Raises:
        UserError: there is no index, it is of another form, or the folders have different columns.
    """

    def __init__(self, *places: Path | str) -> None:
        self.columns: dict[str, ColumnType] = {}
        self.parts: list[_Part] = []
        self.shard_rows = np.zeros(0, dtype=np.int64)  # (shards,)
        self.ends = self.shard_rows  # (shards,) number of the row after each shard
        self.left_out = Counter[str]()  # reason -> rows
        self.made_by: list[Mapping[str, Any]] = []
        for place in places:
            storage = open_storage(place)
            self._add(storage, _read_index(storage))

    @classmethod
    def of_done(cls, folder: Path, shards: int) -> Self:
        """Open those of a folder's `shards` shards that are done; the others have no rows."""
        opened = cls()
        opened._add(open_storage(folder), _index_of_done(folder, shards) | {"made_by": {}})
        return opened

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """Concatenate opened shards; raises a UserError if their columns differ."""
        joined = cls()
        for one in several:
            joined._append(one.parts, one.shard_rows.tolist(), one.columns)
            joined.left_out.update(one.left_out)
            joined.made_by += one.made_by
        return joined

    def _add(self, storage: Storage, index: Mapping[str, Any]) -> None:
        """Append the shards of an index."""
        types = {name: ColumnType(one["dtype"], tuple(one["shape"]), one["ragged"])
                 for name, one in index["columns"].items()}  # fmt: skip
        parts = [_Part(storage, number, one["checksums"]) for number, one in enumerate(index["shards"])]
        self._append(parts, [one["rows"] for one in index["shards"]], types)
        for one in index["shards"]:
            self.left_out.update(one["left_out"])
        self.made_by.append(index["made_by"])

    def _append(self, parts: Sequence["_Part"], rows: Sequence[int], columns: dict[str, ColumnType]) -> None:
        if columns and self.columns and columns != self.columns:
            names = f"{parts[0].storage.name}: has other columns than {self.parts[0].storage.name}"
            raise UserError(f"{names}: prepare both alike")
        self.columns = self.columns or columns
        self.parts += parts
        self.shard_rows = np.concatenate([self.shard_rows, np.array(rows, dtype=np.int64)])
        self.ends = np.cumsum(self.shard_rows)

    def rows_of(self, shard: int) -> range:
        """Numbers of the rows of a shard."""
        return range(int(self.ends[shard] - self.shard_rows[shard]), int(self.ends[shard]))

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def column(self, name: str) -> "Column":
        """Open a column; raises a UserError that lists the columns if there is none of this name."""
        if name not in self.columns and len(self):
            known = ", ".join(self.columns)
            raise UserError(f"{self.parts[0].storage.name}: has no column {name!r} (there are: {known})")
        return Column(self, name)

    def prefetch(self, shards: Iterable[int], columns: Iterable[str]) -> None:
        """Start to download files that are needed soon, if they are in an object store, and return at once."""
        columns = [file for name in columns for file in ([name, name + ENDS] if self.columns[name].ragged else [name])]
        for part in (self.parts[shard] for shard in shards if self.shard_rows[shard]):
            for column in columns:
                part.storage.prefetch(file_name(part.number, column), part.checksums[column])


class Column:
    """Values of one column: `column[3]` is a row, `column[[3, 5]]` an array of rows; read-only, mapped into memory.

    The rows of a ragged column are arrays of different lengths.
    """

    def __init__(self, shards: Shards, name: str) -> None:
        self.shards, self.name = shards, name
        self.type = shards.columns.get(name, ColumnType("<f4", ()))
        self.dtype = np.dtype(self.type.dtype)
        self._ends: list[int] = shards.ends.tolist()
        self._open: OrderedDict[int, tuple[np.ndarray, np.ndarray | None]] = OrderedDict()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of all rows; of a ragged column (rows,)."""
        return (len(self),) if self.type.ragged else (len(self), *self.type.shape)

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: Any) -> np.ndarray:
        if isinstance(row, tuple):  # column[3, 5:7] is column[3][5:7]
            return self[row[0]][row[1:]]
        if isinstance(row, slice):
            row = np.arange(len(self))[row]
        if isinstance(row, list | np.ndarray):
            if self.type.ragged:
                raise TypeError(f"column {self.name} is ragged: read its rows one by one")
            found = [self[int(one)] for one in row]
            return np.stack(found) if found else np.zeros((0, *self.type.shape), self.dtype)
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        shard = bisect_right(self._ends, row)
        local = row - (self._ends[shard - 1] if shard else 0)
        values, ends = self._shard(shard)
        if ends is None:
            return values[local]
        return values[ends[local - 1] if local else 0 : ends[local]]

    def json(self, row: int) -> Any:
        """Value of a row that `ShardWriter.append_json` wrote."""
        return json.loads(self[row].tobytes())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        """State for processes that load data, without mapped files."""
        return self.__dict__ | {"_open": OrderedDict()}

    def _shard(self, shard: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Values and ends of a shard, mapped now or before."""
        found = self._open.get(shard)
        if found is None:
            part, rows, ends = self.shards.parts[shard], int(self.shards.shard_rows[shard]), None
            if self.type.ragged:
                ends = _map(part, self.name + ENDS, ColumnType("<i8", ()), rows)
            found = _map(part, self.name, self.type, rows if ends is None else int(ends[-1])), ends
            self._open[shard] = found
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return found


def _map(part: _Part, column: str, kind: ColumnType, rows: int) -> np.ndarray:
    """Map a file of (rows, ...) values; a UserError names one that is missing, cut off or of another type."""
    name = file_name(part.number, column)
    where = f"{part.storage.name}/{name}"
    remedy = part.storage.remedy
    try:
        values = _load(part.storage, name, part.checksums[column])
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such file: {remedy}") from error
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{where}: is damaged or cut off: {remedy}") from error
    expected = (rows, *kind.shape)
    if values.dtype.str != kind.dtype or values.shape != expected:
        found = f"{values.dtype.str} {values.shape}"
        raise UserError(f"{where}: is {found}, the index says {kind.dtype} {expected}: {remedy}")
    return values.view(np.ndarray)  # whose rows are read faster than those of a memmap


def _load(storage: Storage, name: str, checksum: str) -> np.ndarray:
    try:
        return np.load(storage.fetch(name, checksum), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:  # another process may have deleted it from a full cache meanwhile
        return np.load(storage.fetch(name, checksum), mmap_mode="r", allow_pickle=False)


def _read_index(storage: Storage) -> dict[str, Any]:
    path = storage.fetch(INDEX_FILE)
    where = f"{storage.name}/{INDEX_FILE}"
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder")
    if not path.is_file():
        raise UserError(f"{where}: no such file: the features are not complete: prepare them to the end")
    index = files.read_json(path, "the index of shards")
    check_form(index, where)
    return index


def check_form(index: Mapping[str, Any], where: str) -> None:
    """Raise a UserError if an index is not of the form that this version reads."""
    if index.get("form") != FORM:
        found = f"of form {index['form']!r}" if "form" in index else "no index of shards"
        raise UserError(f"{where}: {found}, this version reads form {FORM}: prepare the features again")
