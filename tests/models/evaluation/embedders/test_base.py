"""Windows, batches and refusals, on embedders that can be worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.utils.audio import split_windows
from sonolume.utils.errors import UserError


class Mean(Embedder):
    """Embeds a window as (its mean, its length); notes every batch."""

    name, takes, dim, sample_rate = "mean:", ("sounds",), 2, 10

    def __init__(self, window: float | None = None, ragged: bool = True, unit: bool = False) -> None:
        self.window, self.ragged, self.unit = window, ragged, unit
        self.batches: list[list[int]] = []

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        self.batches.append([len(wave) for wave in waves])
        return Features(torch.tensor([[wave.mean(), len(wave)] for wave in waves]), None)


def waves(*lengths: int) -> list[np.ndarray]:
    return [np.full(length, index, np.float32) for index, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("length", "starts"),
    [(3, [0]), (10, [0]), (11, [0, 1]), (20, [0, 10]), (25, [0, 10, 15]), (30, [0, 10, 20])],
)
def test_windows_lie_side_by_side_and_the_last_ends_with_the_sound(length: int, starts: list[int]) -> None:
    windows = split_windows(np.arange(length), 10)
    assert [int(window[0]) for window in windows] == starts
    assert all(len(window) == min(length, 10) for window in windows)
    assert split_windows(np.arange(length), None)[0].shape == (length,)


def test_a_long_sound_gets_the_mean_of_its_windows() -> None:
    wave = np.concatenate([np.zeros(10), np.ones(10), np.full(5, 4.0)]).astype(np.float32)
    short = np.full(4, 9.0, np.float32)
    found = Mean(window=1.0).encode_audio([short, wave]).embeddings
    assert found.tolist() == [[9, 4], [pytest.approx((0 + 1 + 2.5) / 3), 10]]  # the last window: five 1s, five 4s


def test_unit_length_comes_after_the_mean() -> None:
    wave = np.concatenate([np.zeros(10), np.full(10, 30.0)]).astype(np.float32)
    found = Mean(window=1.0, unit=True).encode_audio([wave]).embeddings[0]
    assert found.tolist() == pytest.approx([15 / np.hypot(15, 10), 10 / np.hypot(15, 10)])


def test_batches_are_bounded_and_results_come_in_order() -> None:
    embedder = Mean()
    found = embedder.encode_audio(waves(7, 3, 5, 3, 9), batch_size=2).embeddings
    assert embedder.batches == [[3, 3], [5, 7], [9]]  # neighbours of like length
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4] and found[:, 1].tolist() == [7, 3, 5, 3, 9]


def test_lengths_do_not_mix_where_padding_would_leak() -> None:
    embedder = Mean(ragged=False)
    assert embedder.encode_audio(waves(7, 3, 7, 3, 3), batch_size=2).embeddings[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert embedder.batches == [[3, 3], [3], [7, 7]]


def test_nothing_gives_no_rows() -> None:
    assert Mean().encode_audio([]).embeddings.shape == (0, 2)


@pytest.mark.parametrize("wave", [np.zeros(0, np.float32), np.zeros((2, 9), np.float32)])
def test_empty_waves_are_refused(wave: np.ndarray) -> None:
    with pytest.raises(ValueError, match="sound 1 must be"):
        Mean().encode_audio([np.zeros(3, np.float32), wave])


def test_a_medium_that_it_does_not_take() -> None:
    with pytest.raises(UserError, match="mean: takes sounds, not texts"):
        Mean().encode_texts(["a"])
    with pytest.raises(UserError, match="mean: takes sounds, not pictures"):
        Mean().encode_images([Image.new("RGB", (4, 4))])


def test_facts_change_with_what_decides_the_numbers() -> None:
    assert Mean().facts() != Mean(window=1.0).facts()
    assert Mean().facts()["sample_rate"] == 10 and "soxr" in Mean().facts()["resampler"]


def test_padding_is_silence_behind() -> None:
    assert pad(waves(2, 3), multiple=4).tolist() == [[0, 0, 0, 0], [1, 1, 1, 0]]
    assert pad(waves(3), shortest=5).shape == (1, 5)
