"""Exports shards as WebDataset tars or Parquet files, one of each shard.

In a tar, row 17 of all is the sample 000000017: an array in each 000000017.{column}.npy, and the values of all JSON
columns as one object in 000000017.json. The bytes of a tar depend on the content of the shard only.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sonolume.utils import files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.shards import Column, Shards

Write = Callable[[Path, Shards, dict[str, Column], range], None]


def export(place: Path | str, folder: Path, form: str) -> Iterator[Path]:
    """Write each shard that has rows as {folder}/{number}.tar or .parquet; yields the path of each.

    Args:
        place: folder or address of shards.
        form: a key of `FORMATS`.

    Raises:
        UserError: there are no shards, or a package is missing.
    """
    suffix, write = FORMATS[form]
    shards = Shards(place)
    columns = {name: shards.column(name) for name in shards.columns}
    for number, (end, rows) in enumerate(zip(shards.ends.tolist(), shards.shard_rows.tolist(), strict=True)):
        if rows:
            path = folder / f"{number:05d}{suffix}"
            with files.atomic_path(path) as temporary:
                write(temporary, shards, columns, range(end - rows, end))
            yield path


def _write_tar(path: Path, shards: Shards, columns: dict[str, Column], rows: range) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            texts = {name: column.json(row) for name, column in columns.items() if column.type.is_json}
            for name, column in columns.items():
                if not column.type.is_json:
                    _add(tar, f"{row:09d}.{name}.npy", _npy(column[row]))
            if texts:
                _add(tar, f"{row:09d}.json", json.dumps(texts, ensure_ascii=False).encode(errors="backslashreplace"))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of time 0, and of nobody
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(values), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _write_parquet(path: Path, shards: Shards, columns: dict[str, Column], rows: range) -> None:
    """Write fixed-size lists, lists and JSON strings; the metadata of a field holds the shape of its rows or values."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"--format parquet needs pyarrow: {paths.pip_install('parquet')}") from error
    arrays, fields = [], []
    for name, column in columns.items():
        arrays.append(_arrow(pyarrow, column, rows))
        shape = json.dumps(column.type.shape)
        fields.append(pyarrow.field(name, arrays[-1].type, metadata={} if column.type.is_json else {"shape": shape}))
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields))
    pyarrow.parquet.write_table(table, path, compression="zstd")


def _arrow(pyarrow: Any, column: Column, rows: range) -> Any:
    """The rows of a column as an array of pyarrow, whose lists have one level."""
    if column.type.is_json:
        return pyarrow.array([column[row].tobytes().decode() for row in rows], pyarrow.string())
    values = [column[row].reshape(-1) for row in rows]
    flat = pyarrow.array(np.concatenate(values))
    if not column.type.ragged and column.type.shape:
        return pyarrow.FixedSizeListArray.from_arrays(flat, values[0].size)
    if not column.type.ragged:
        return flat
    ends = np.cumsum([0, *map(len, values)])
    return pyarrow.LargeListArray.from_arrays(pyarrow.array(ends, pyarrow.int64()), flat)


FORMATS: dict[str, tuple[str, Write]] = {"wds": (".tar", _write_tar), "parquet": (".parquet", _write_parquet)}
