"""What turns sounds, pictures and texts into vectors that metrics compare.

N items, d width of an embedding, K classes, B windows of one batch.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from sonolume.utils.errors import UserError

BATCH = 16


class Features(NamedTuple):
    """What a model says of N items, float32 on the CPU."""

    embeddings: Tensor  # (N, d)
    logits: Tensor | None  # (N, K), None of a model that tells no classes


class Embedder:
    """A frozen model behind one door; kinds differ in what they take.

    A sound longer than `window` is cut into windows side by side, the last one aligned to the end (so that none holds
    padding), and gets the mean of their embeddings and of their logits. Nothing is random: two calls agree. A shorter
    sound is padded as the model's own processor does. Batches hold equal lengths unless the model masks or pads them.
    """

    name: str
    """kind, source and version: a commit of the hub, or a hash of the folder; enters fingerprints and cache keys"""
    takes: tuple[str, ...]
    """of sounds, pictures, texts"""
    dim: int
    """d"""
    sample_rate: int = 0
    """Hz, where it takes sounds"""
    window: float | None = None
    """seconds that it hears at once, None for any length"""
    labels: tuple[str, ...] = ()
    """names of the K classes of the logits, if it tells any"""

    ragged: bool = True  # a batch may hold windows of several lengths
    unit: bool = False  # embeddings have length 1

    @torch.no_grad()
    def hear(self, waves: Sequence[np.ndarray], batch_size: int = BATCH) -> Features:
        """Embeddings and logits in one pass.

        Args:
            waves: N sounds, each float32 (n,) at `sample_rate`.
            batch_size: windows at once.

        Raises:
            UserError: it takes no sounds.
            ValueError: a wave that is empty or not (n,).
        """
        self.require("sounds")
        size = round(self.window * self.sample_rate) if self.window else None
        owners, windows = [], []
        for index, wave in enumerate(waves):
            if wave.ndim != 1 or not len(wave):
                raise ValueError(f"sound {index} must be (n,) with n > 0, got {wave.shape}")
            parts = cut(wave, size)
            windows += [np.ascontiguousarray(part, dtype=np.float32) for part in parts]
            owners += [index] * len(parts)
        heard = self._in_batches(windows, batch_size)
        embeddings, logits = (_mean_by_owner(rows, owners, len(waves)) for rows in heard)
        assert embeddings is not None
        return Features(F.normalize(embeddings, dim=-1) if self.unit else embeddings, logits)

    @torch.no_grad()
    def look(self, pictures: Sequence[Image], batch_size: int = BATCH) -> Features:
        """Embeddings and logits of N pictures in one pass.

        Raises:
            UserError: it takes no pictures.
        """
        self.require("pictures")
        chunks = [self._look([p.convert("RGB") for p in chunk]) for chunk in chunked(pictures, batch_size)]
        return self._joined(chunks)

    @torch.no_grad()
    def texts(self, texts: Sequence[str], batch_size: int = BATCH) -> Tensor:
        """(N, d) of texts, cut off at the model's longest.

        Raises:
            UserError: it takes no texts.
        """
        self.require("texts")
        chunks = [Features(self._read(list(chunk)), None) for chunk in chunked(texts, batch_size)]
        return self._joined(chunks).embeddings

    def sounds(self, waves: Sequence[np.ndarray], batch_size: int = BATCH) -> Tensor:
        """(N, d); as `hear`."""
        return self.hear(waves, batch_size).embeddings

    def pictures(self, pictures: Sequence[Image], batch_size: int = BATCH) -> Tensor:
        """(N, d); as `look`."""
        return self.look(pictures, batch_size).embeddings

    def logits(self, items: Sequence[Any], batch_size: int = BATCH) -> Tensor:
        """(N, K) of sounds, or of pictures where it takes those; column i is `labels[i]`.

        Raises:
            UserError: it tells no classes.
        """
        if not self.labels:
            raise UserError(f"{self.name} tells no classes; take an embedder that does, such as ast: or mini:")
        logits = (self.hear if "sounds" in self.takes else self.look)(items, batch_size).logits
        assert logits is not None
        return logits

    def facts(self) -> dict[str, Any]:
        """What decides the numbers, for fingerprints and cache keys."""
        heard = {"sample_rate": self.sample_rate, "window": self.window, "resampler": f"soxr {version('soxr')} HQ"}
        return {"embedder": self.name, "dim": self.dim, **(heard if "sounds" in self.takes else {})}

    def _hear(self, waves: list[np.ndarray]) -> Features:
        """One batch of windows, none longer than `window`; results may lie anywhere."""
        raise NotImplementedError

    def _look(self, pictures: list[Image]) -> Features:
        """One batch of RGB pictures."""
        raise NotImplementedError

    def _read(self, texts: list[str]) -> Tensor:
        """One batch of texts."""
        raise NotImplementedError

    def require(self, what: str) -> None:
        """Raise a UserError unless it takes `what`."""
        if what not in self.takes:
            raise UserError(f"{self.name} takes {' and '.join(self.takes)}, not {what}: choose another embedder")

    def _in_batches(self, windows: list[np.ndarray], batch_size: int) -> Features:
        batches = list(_batches([len(window) for window in windows], batch_size, self.ragged))
        found = self._joined([self._hear([windows[index] for index in batch]) for batch in batches])
        back = torch.tensor(list(itertools.chain(*batches)), dtype=torch.long).argsort()
        return Features(found.embeddings[back], None if found.logits is None else found.logits[back])

    def _joined(self, chunks: list[Features]) -> Features:
        if not chunks:
            return Features(torch.zeros(0, self.dim), torch.zeros(0, len(self.labels)) if self.labels else None)
        embeddings = torch.cat([chunk.embeddings.float().cpu() for chunk in chunks])
        logits = [chunk.logits.float().cpu() for chunk in chunks if chunk.logits is not None]
        return Features(embeddings, torch.cat(logits) if logits else None)


def cut(wave: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Windows of `size` samples side by side; the last one ends where the sound ends, and so may overlap."""
    if not size or len(wave) <= size:
        return [wave]
    starts = [*range(0, len(wave) - size, size), len(wave) - size]
    return [wave[start : start + size] for start in starts]


def pad(waves: list[np.ndarray], multiple: int = 1, shortest: int = 1) -> Tensor:
    """(B, n) with zeros behind; n a multiple of `multiple`, and at least `shortest`."""
    size = max(shortest, *(len(wave) for wave in waves))
    size += -size % multiple
    return torch.from_numpy(np.stack([np.pad(wave, (0, size - len(wave))) for wave in waves]))


def hash_of(*paths: Path) -> str:
    """Twelve hex digits of the files' names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def chunked(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _batches(lengths: list[int], size: int, ragged: bool) -> Iterator[list[int]]:
    """Indices of each batch, the shortest first: neighbours of like length waste little padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = [order] if ragged else [list(group) for _, group in itertools.groupby(order, lengths.__getitem__)]
    return (batch for group in groups for batch in chunked(group, size))  # type: ignore[misc]


def _mean_by_owner(rows: Tensor | None, owners: list[int], count: int) -> Tensor | None:
    """(windows, d) -> (count, d): the mean over the windows of each sound."""
    if rows is None:
        return None
    index = torch.tensor(owners, dtype=torch.long)
    sums = torch.zeros(count, rows.shape[1]).index_add_(0, index, rows)
    return sums / torch.bincount(index, minlength=count).clamp(min=1)[:, None]
