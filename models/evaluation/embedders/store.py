"""Rows of numbers by the hash of what they were computed from, in shards on disk that are whole or absent."""

import hashlib
import io
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sonolume.utils import files
from sonolume.utils.errors import UserError, first_line

SAVE_SECONDS = 30.0  # what a crash can lose
SAVE_ROWS = 4096


class Row(NamedTuple):
    embedding: np.ndarray  # (d,) float32
    logits: np.ndarray  # (K,) float32, or (0,) where there are none
    flags: int


class Store:
    """Rows in memory, and in `folder` unless that is None.

    Raises:
        UserError: a shard is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.rows = folder, dict[bytes, Row]()
        self._fresh: list[bytes] = []
        self._saved = time.monotonic()
        for path in sorted(folder.glob("[0-9a-f]*.npz")) if folder else []:
            self._read(path)

    def add(self, digest: bytes, row: Row) -> None:
        """Keep a row; it is on disk after `flush`, which happens now and then by itself."""
        self.rows[digest] = row
        self._fresh.append(digest)
        if len(self._fresh) >= SAVE_ROWS or time.monotonic() - self._saved > SAVE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is new as one shard, named after what it holds."""
        self._saved = time.monotonic()
        if self.folder and self._fresh:
            rows = [self.rows[digest] for digest in self._fresh]
            digests = b"".join(self._fresh)
            name = hashlib.sha256(digests).hexdigest()[:16]
            memory = io.BytesIO()  # numpy hides the system's error (disk full); write_bytes raises it
            np.savez(
                memory,
                digests=np.frombuffer(digests, np.uint8).reshape(len(rows), -1),
                embeddings=np.stack([row.embedding for row in rows]),
                logits=np.stack([row.logits for row in rows]),
                flags=np.array([row.flags for row in rows], np.uint8),
            )
            with files.atomic_path(self.folder / f"{name}.npz") as path:
                path.write_bytes(memory.getbuffer())
        self._fresh = []

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as shard:
                columns = [shard[name] for name in ("digests", "embeddings", "logits", "flags")]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: damaged ({first_line(error, 80)}); remove it, it will be made anew") from error
        for digest, embedding, logits, flags in zip(*columns, strict=True):
            self.rows[digest.tobytes()] = Row(embedding, logits, int(flags))
