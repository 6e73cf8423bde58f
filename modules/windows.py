"""A long latent as overlapped windows of the length that the networks were trained on.

MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113): predict on each window, blend the predictions by weights that
fall towards a window's ends, where it sees least. Shapes: B sounds, n windows of each, s latents wide.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """`count` windows of `size`, `hop` apart: together `width` wide, with nothing left over."""

    size: int
    hop: int
    count: int

    @classmethod
    def covering(cls, width: int, size: int, overlap: float) -> "Windows":
        """The fewest windows that cover `width`.

        Args:
            overlap: share of a window that the next one covers, too, from 0 to 0.9.

        Raises:
            ValueError: overlap out of range.
        """
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"window_overlap must be from 0 to 0.9, got {overlap:g}")
        hop = max(1, round(size * (1 - overlap)))
        return cls(size, hop, 1 + max(0, math.ceil((width - size) / hop)))

    @property
    def width(self) -> int:
        return self.size + (self.count - 1) * self.hop

    def cut(self, x: Tensor, unit: int = 1) -> Tensor:
        """(B, ..., width * unit) -> (B * n, ..., size * unit), the windows of a sound in a row.

        Args:
            unit: values of `x` to one latent: 1 for latents, the autoencoder's factor for mel frames.
        """
        if self.count == 1:
            return x
        pieces = x.unfold(-1, self.size * unit, self.hop * unit)  # (B, ..., n, s)
        return pieces.movedim(-2, 1).flatten(0, 1)                # (B * n, ..., s)

    def blend(self, pieces: Tensor, unit: int = 1) -> Tensor:
        """The inverse of `cut`: the weighted mean where windows overlap."""
        if self.count == 1:
            return pieces
        weight = taper(self.size * unit).to(pieces.device)
        pieces_of = pieces.unflatten(0, (-1, self.count))         # (B, n, ..., s)
        total = weight.new_zeros(self.width * unit)
        shape = (pieces_of.shape[0], *pieces_of.shape[2:-1], self.width * unit)
        mixed = torch.zeros(shape, device=pieces.device)          # (B, ..., width)
        for number in range(self.count):
            place = slice(number * self.hop * unit, (number * self.hop + self.size) * unit)
            mixed[..., place] += pieces_of[:, number].float() * weight
            total[place] += weight
        return (mixed / total).to(pieces.dtype)


def taper(size: int) -> Tensor:
    """(size,) weights above 0, highest in the middle; with an overlap of a half they add up to 1."""
    return torch.sin(math.pi * (torch.arange(size) + 0.5) / size).square()
