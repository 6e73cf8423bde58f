"""Long sounds in pieces: latents in overlapping windows of the trained length, mels in chunks for the vocoder.

MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113): a network runs on each window and the results are blended, with
weights that fall towards a window's ends, where it has least context. B sounds, n windows of each, s latents wide.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

VOCODER_CONTEXT = 32  # mel frames on each side of a piece; HiFi-GAN's receptive field is about 15


@dataclass(frozen=True)
class Windows:
    """`count` windows of `size`, `hop` apart, which cover exactly `width` latents."""

    size: int
    hop: int
    count: int

    @classmethod
    def covering(cls, width: int, size: int, overlap: float) -> "Windows":
        """The fewest windows that cover `width`.

        Args:
            overlap: share of a window that the next one covers as well, from 0 to 0.9.

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

    def apply(
        self, network: Callable[[Tensor, Tensor], Tensor], x: Tensor, at_once: int, unit: int = 1, out_unit: int = 1
    ) -> Tensor:
        """Run a network on every window and blend its outputs: (B, ..., width * unit) -> (B, ..., width * out_unit).

        `network` takes windows (b, ..., size * unit) and the index of each one's sound (b,), and gives (b, ..., size *
        out_unit). A call takes at most `at_once` windows, but all sounds of a single window. `unit` and `out_unit` are
        values per latent: 1 for latents, the autoencoder's factor for mel frames.
        """
        pieces = self.cut(x, unit)                                             # (B * n, ..., s)
        sounds = torch.arange(len(pieces), device=x.device) // self.count      # (B * n,)
        size = len(pieces) if self.count == 1 else at_once
        batches = zip(pieces.split(size), sounds.split(size), strict=True)
        return self.blend(torch.cat([network(some, of) for some, of in batches]), out_unit)

    def calls(self, sounds: int, at_once: int) -> int:
        """Number of calls of the network that `apply` makes."""
        return 1 if self.count == 1 else math.ceil(sounds * self.count / at_once)

    def cut(self, x: Tensor, unit: int = 1) -> Tensor:
        """(B, ..., width * unit) -> (B * n, ..., size * unit), the windows of a sound one after the other."""
        if self.count == 1:
            return x
        return x.unfold(-1, self.size * unit, self.hop * unit).movedim(-2, 1).flatten(0, 1)

    def blend(self, pieces: Tensor, unit: int = 1) -> Tensor:
        """Inverse of `cut`: the weighted mean where windows overlap."""
        if self.count == 1:
            return pieces
        weight = taper(self.size * unit).to(pieces.device)
        of_sounds = pieces.unflatten(0, (-1, self.count))                      # (B, n, ..., s)
        total = weight.new_zeros(self.width * unit)
        mixed = total.expand(len(of_sounds), *of_sounds.shape[2:-1], -1).clone()  # (B, ..., width)
        for number in range(self.count):
            place = slice(number * self.hop * unit, (number * self.hop + self.size) * unit)
            mixed[..., place] += of_sounds[:, number].float() * weight
            total[place] += weight
        return (mixed / total).to(pieces.dtype)


def taper(size: int) -> Tensor:
    """(size,) weights above 0, highest in the middle; with an overlap of one half they add up to 1."""
    return torch.sin(math.pi * (torch.arange(size) + 0.5) / size).square()


class CallSize(NamedTuple):
    """Mel frames of one sound, and of all sounds, in one call of a network."""

    piece: int
    call: int


# A CPU is fastest while all values of a call fit its cache; longer pieces and larger batches are up to 3 times slower.
VOCODER_ON_CPU, VOCODER_ON_GPU = CallSize(640, 640), CallSize(2048, 20_480)


class Piece(NamedTuple):
    """The frames `start` to `end` of some sounds, which need the frames `left` to `right`."""

    sounds: slice
    start: int
    end: int
    left: int
    right: int


def cut_pieces(sounds: int, frames: int, context: int, size: CallSize) -> list[Piece]:
    """Cut (sounds, frames) into pieces of equal length, with `context` frames on each side, and groups of sounds."""
    count = math.ceil(frames / size.piece)
    bounds = [number * frames // count for number in range(count + 1)]
    at_once = max(1, size.call // math.ceil(frames / count))
    return [
        Piece(slice(first, first + at_once), start, end, max(0, start - context), min(end + context, frames))
        for first in range(0, sounds, at_once)
        for start, end in itertools.pairwise(bounds)
    ]


def vocoder_pieces(mel: Tensor, size: CallSize | None = None, context: int = VOCODER_CONTEXT) -> list[Piece]:
    """Pieces of ln mel (B, M, T) for a vocoder, by default of the size that is best for the mel's device."""
    size = size or (VOCODER_ON_CPU if mel.device.type == "cpu" else VOCODER_ON_GPU)
    return cut_pieces(len(mel), mel.shape[-1], context, size)


def vocode_in_chunks(
    mel: Tensor, vocoder: Any, size: CallSize | None = None, context: int = VOCODER_CONTEXT,
    on_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:  # fmt: skip
    """Vocode ln mel (B, M, T) with a `SpeechT5HifiGan` -> wave (B, T * hop), float32, with bounded memory.

    Time grows linearly with B and T. `on_chunk(number, total)` is called after each piece.
    """
    pieces, wave = vocoder_pieces(mel, size, context), mel.new_empty(0)
    for number, (sounds, start, end, left, right) in enumerate(pieces, 1):
        some = mel[sounds, :, left:right].transpose(1, 2).to(vocoder.dtype)    # (b, frames, M)
        part = vocoder(some).float().reshape(len(some), -1)                    # (b, frames * hop)
        hop = part.shape[1] // (right - left)
        if number == 1:
            wave = part.new_empty(len(mel), mel.shape[-1] * hop)               # (B, T * hop)
        wave[sounds, start * hop : end * hop] = part[:, (start - left) * hop : (end - left) * hop]
        if on_chunk:
            on_chunk(number, len(pieces))
    return wave
