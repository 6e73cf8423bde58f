"""Token sequences longer than a prior's context, as overlapping windows: the overlap is given to the next window."""

from collections.abc import Callable

import torch
from torch import Tensor

SampleWindow = Callable[[int, Tensor | None], Tensor]  # (start, prefix (B, P) or None) -> tokens (B, size)


def window_starts(total: int, size: int, hop: int) -> list[int]:
    """First positions of windows of `size` tokens, `hop` apart, the last one aligned to the end.

    Raises:
        ValueError: a hop out of range, or fewer tokens than a window.
    """
    if not 0 < hop <= size:
        raise ValueError(f"the windows of {size} tokens must be 1 to {size} tokens apart, got {hop}")
    if total < size:
        raise ValueError(f"{total} tokens are fewer than a window of {size}")
    return [*range(0, total - size, hop), total - size]


def sample_windows(total: int, size: int, hop: int, sample: SampleWindow) -> Tensor:
    """Sample (B, total) tokens window by window.

    Args:
        sample: samples the window that begins at `start`, whose first tokens are given as its prefix: the condition is
            that of [start, start + size).
    """
    starts = window_starts(total, size, hop)
    tokens = sample(0, None)
    for start in starts[1:]:
        window = sample(start, tokens[:, start:])
        tokens = torch.cat([tokens[:, :start], window], dim=1)
    return tokens
