"""Token sequences longer than the context of a prior, sampled as overlapping windows.

The tokens of the overlap are the given prefix of the next window.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SampleWindow = Callable[[int, Tensor | None], Tensor]  # (start, prefix (B, P) or None) -> tokens (B, size)
Finished = Callable[[Tensor], None]  # tokens (B, total so far)


def window_starts(total: int, size: int, hop: int, unit: int = 1) -> list[int]:
    """First positions of windows of `size` tokens, `hop` apart; the last window is aligned to the end.

    Args:
        unit: divisor of all starts: 4 for the Up prior, whose windows begin with a coarse token.

    Raises:
        ValueError: a hop out of range, fewer tokens than a window, or starts that `unit` does not divide.
    """
    if not 0 < hop <= size:
        raise ValueError(f"the windows of {size} tokens must be 1 to {size} tokens apart, got {hop}")
    if total < size:
        raise ValueError(f"{total} tokens are fewer than a window of {size}")
    starts = [*range(0, total - size, hop), total - size]
    if any(start % unit for start in starts):
        raise ValueError(f"windows of {size} of {total} tokens, {hop} apart, do not start at multiples of {unit}")
    return starts


def sample_windows(
    starts: Sequence[int], size: int, sample: SampleWindow, done: Tensor | None = None, finished: Finished | None = None
) -> Tensor:
    """Sample tokens (B, total) window by window.

    Args:
        starts: from `window_starts`.
        size: tokens of a window.
        sample: samples the window [start, start + size) under its condition, continuing its prefix.
        done: tokens of the first windows, from an earlier run.
        finished: called with all tokens so far after each window.
    """
    tokens = done
    for start in starts:
        if tokens is not None and tokens.shape[1] >= start + size:
            continue
        window = sample(start, None if tokens is None else tokens[:, start:])
        tokens = window if tokens is None else torch.cat([tokens[:, :start], window], dim=1)
        if finished:
            finished(tokens)
    assert tokens is not None  # there is at least one window
    return tokens


def least_samples(seconds: float, sample_rate: int) -> int:
    """Smallest number of samples that lasts at least `seconds`."""
    return math.ceil(seconds * sample_rate)


def window_frames(offset: int, window: int, fps: float = 30.0, sample_rate: int = 16000) -> slice:
    """Rows of a sequence of frame features that belong to a window; `offset` and `window` in samples."""
    first = int(offset / sample_rate * fps)
    return slice(first, int(first + window / sample_rate * fps) + 1)
