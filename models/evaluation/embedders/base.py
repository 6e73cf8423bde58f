"""Common interface of the frozen feature extractors that turn sounds, pictures and texts into embeddings.

N items, d width of an embedding, K classes, B items of one batch.
"""

import itertools
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from sonolume.utils import audio
from sonolume.utils.errors import UserError

BATCH_SIZE = 16


class Features(NamedTuple):
    """Output of a model for N items, float32 on the CPU."""

    embeddings: Tensor  # (N, d)
    logits: Tensor | None  # (N, K), None without a classifier


class Embedder:
    """A frozen feature extractor for some of sounds, pictures and texts.

    Sounds longer than `window` are cut into adjacent windows, the last one aligned to the end so that no window holds
    padding; embeddings and logits are averaged over the windows. Shorter sounds are padded as the model's own processor
    does. Results do not depend on the global random state. A UserError is raised for media that it does not take.

    A subclass sets the attributes, and implements `audio_features`, `image_features` and `text_features` of one batch
    for the media that it takes. Batches hold windows of equal length unless the model masks or pads them (`ragged`).
    """

    name: str  # kind, source and version (hub commit or content hash of the folder); part of conditions and cache keys
    takes: tuple[str, ...]  # some of "sounds", "pictures", "texts"
    dim: int  # d
    sample_rate: int = 0  # Hz, if it takes sounds
    window: float | None = None  # longest input in seconds, None for any length
    labels: tuple[str, ...] = ()  # names of the K classes of the logits, if it has a classifier
    ragged: bool = True  # a batch may hold windows of different lengths
    unit: bool = False  # embeddings have length 1

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[np.ndarray], batch_size: int = BATCH_SIZE) -> Features:
        """Encode N sounds, each float32 (n,) with n > 0 at `sample_rate`, `batch_size` windows at a time."""
        self.require("sounds")
        size = round(self.window * self.sample_rate) if self.window else None
        owners, windows = list[int](), list[np.ndarray]()
        for index, wave in enumerate(waves):
            if wave.ndim != 1 or not len(wave):
                raise ValueError(f"sound {index} must be (n,) with n > 0, got {wave.shape}")
            parts = audio.split_windows(wave, size)
            windows += [np.ascontiguousarray(part, dtype=np.float32) for part in parts]
            owners += [index] * len(parts)
        batches = audio.batches_by_length([len(window) for window in windows], batch_size, self.ragged)
        found = self._concatenate([self.audio_features([windows[index] for index in batch]) for batch in batches])
        order = torch.tensor(list(itertools.chain(*batches)), dtype=torch.long).argsort()
        embeddings, logits = (
            None if rows is None else _mean_by_owner(rows[order], owners, len(waves)) for rows in found
        )
        assert embeddings is not None
        return Features(F.normalize(embeddings, dim=-1) if self.unit else embeddings, logits)

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Image], batch_size: int = BATCH_SIZE) -> Features:
        """Encode N pictures of any size."""
        self.require("pictures")
        batches = batched([picture.convert("RGB") for picture in pictures], batch_size)
        return self._concatenate([self.image_features(list(batch)) for batch in batches])

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> Features:
        """Encode N texts, truncated to the model's maximum; without logits."""
        self.require("texts")
        batches = [Features(self.text_features(list(batch)), None) for batch in batched(texts, batch_size)]
        return self._concatenate(batches)

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        """Encode one batch of windows, none longer than `window`; tensors on any device."""
        raise NotImplementedError

    def image_features(self, pictures: list[Image]) -> Features:
        raise NotImplementedError

    def text_features(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Everything that determines the embeddings, for conditions and cache keys."""
        sound = {"sample_rate": self.sample_rate, "window": self.window, "resampler": f"soxr {version('soxr')} HQ"}
        return {"embedder": self.name, "dim": self.dim, **(sound if "sounds" in self.takes else {})}

    def require(self, medium: str) -> None:
        """Raise a UserError unless the embedder takes `medium`."""
        if medium not in self.takes:
            raise UserError(f"{self.name} takes {' and '.join(self.takes)}, not {medium}: choose another embedder")

    def _concatenate(self, batches: list[Features]) -> Features:
        if not batches:
            return Features(torch.zeros(0, self.dim), torch.zeros(0, len(self.labels)) if self.labels else None)
        embeddings = torch.cat([batch.embeddings.float().cpu() for batch in batches])
        logits = [batch.logits.float().cpu() for batch in batches if batch.logits is not None]
        return Features(embeddings, torch.cat(logits) if logits else None)


def pad(waves: list[np.ndarray], multiple: int = 1, shortest: int = 1) -> Tensor:
    """Stack waves as (B, n), padded with zeros at the end; n is a multiple of `multiple` and at least `shortest`."""
    size = max(shortest, *(len(wave) for wave in waves))
    size += -size % multiple
    return torch.from_numpy(np.stack([np.pad(wave, (0, size - len(wave))) for wave in waves]))


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Split a sequence into slices of `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _mean_by_owner(rows: Tensor, owners: list[int], count: int) -> Tensor:
    """Average (windows, d) over the windows of each sound: (count, d)."""
    index = torch.tensor(owners, dtype=torch.long)
    sums = torch.zeros(count, rows.shape[1]).index_add_(0, index, rows)
    return sums / torch.bincount(index, minlength=count).clamp(min=1)[:, None]
