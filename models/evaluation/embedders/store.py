"""Embeddings by the hash of what they were computed from, in shards on disk that are whole or absent."""

import hashlib
import io
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sonolume.utils import files
from sonolume.utils.errors import UserError, first_line

FLUSH_SECONDS = 30.0  # longest work that a crash can lose
FLUSH_ROWS = 4096
COLUMNS = ("digests", "embeddings", "logits", "flags")  # arrays of a shard


class Row(NamedTuple):
    embedding: np.ndarray  # (d,) float32
    logits: np.ndarray  # (K,) float32, or (0,) without a classifier
    flags: int


class Store:
    """Rows in memory, and in `folder` unless that is None.

    Raises:
        UserError: a shard is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.rows = folder, dict[bytes, Row]()
        self._unsaved: list[bytes] = []
        self._saved_at = time.monotonic()
        for path in sorted(folder.glob("[0-9a-f]*.npz")) if folder else []:
            self._read(path)

    def add(self, key: bytes, row: Row) -> None:
        """Add a row; it is on disk after the next `flush`, which also happens by itself from time to time."""
        self.rows[key] = row
        self._unsaved.append(key)
        if len(self._unsaved) >= FLUSH_ROWS or time.monotonic() - self._saved_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as one shard, named by a hash of their keys."""
        self._saved_at = time.monotonic()
        if self.folder and self._unsaved:
            rows, keys = [self.rows[key] for key in self._unsaved], b"".join(self._unsaved)
            embeddings, logits, flags = zip(*rows, strict=True)
            columns = (np.frombuffer(keys, np.uint8).reshape(len(rows), -1), np.stack(embeddings), np.stack(logits))
            memory = io.BytesIO()  # numpy hides the system's error (disk full); write_bytes raises it
            np.savez(memory, **dict(zip(COLUMNS, (*columns, np.array(flags, np.uint8)), strict=True)))
            with files.atomic_path(self.folder / f"{hashlib.sha256(keys).hexdigest()[:16]}.npz") as path:
                path.write_bytes(memory.getbuffer())
        self._unsaved = []

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                columns = [shard[name] for name in COLUMNS]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: damaged ({first_line(error, 80)}); remove it to compute it again") from error
        for key, embedding, logits, flags in zip(*columns, strict=True):
            self.rows[key.tobytes()] = Row(embedding, logits, int(flags))
