"""Long sequences as overlapping windows."""

import pytest
import torch
from torch import Tensor

from sonolume.modules.im2wav.windows import sample_windows, window_frames, window_starts


@pytest.mark.parametrize(
    ("total", "size", "hop", "starts"),
    [(16, 16, 8, [0]), (5000, 2048, 1024, [0, 1024, 2048, 2952]), (4096, 2048, 2048, [0, 2048]), (9, 8, 8, [0, 1])],
)
def test_starts(total: int, size: int, hop: int, starts: list[int]):
    assert window_starts(total, size, hop) == starts


@pytest.mark.parametrize(("total", "size", "hop"), [(4, 8, 4), (12, 8, 0), (12, 8, 12), (16, 8, 3), (13, 8, 4)])
def test_wrong_sizes(total: int, size: int, hop: int):
    with pytest.raises(ValueError):
        window_starts(total, size, hop, unit=4)


def test_each_window_continues_the_one_before():
    calls = []

    def sample(start: int, prefix: Tensor | None) -> Tensor:
        length = 0 if prefix is None else prefix.shape[1]
        calls.append((start, length))
        assert prefix is None or torch.equal(prefix, torch.arange(start, start + length).expand(2, -1))
        return torch.arange(start, start + 8).expand(2, -1)

    assert torch.equal(sample_windows(window_starts(21, 8, 5), 8, sample), torch.arange(21).expand(2, -1))
    assert calls == [(0, 0), (5, 3), (10, 3), (13, 5)]


@pytest.mark.parametrize(("offset", "frames"), [(0, (0, 123)), (32768, (61, 184)), (94464, (177, 300))])
def test_frames_of_a_window(offset: int, frames: tuple[int, int]):
    """As many at every offset, so that windows form a batch."""
    assert window_frames(offset, 65536) == slice(*frames)
