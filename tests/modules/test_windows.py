import pytest
import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from sonolume.modules.windows import CallSize, Windows, cut_pieces, taper, vocode_in_chunks, vocoder_pieces


@pytest.mark.parametrize(
    ("width", "overlap", "count", "whole"),
    [(1, 0.5, 1, 10), (10, 0.5, 1, 10), (11, 0.5, 2, 15), (15, 0.5, 2, 15), (16, 0.5, 3, 20), (40, 0.0, 4, 40),
     (11, 0.9, 2, 11), (100, 0.25, 13, 106)],
)  # fmt: skip
def test_windows_cover_and_leave_nothing_over(width: int, overlap: float, count: int, whole: int):
    windows = Windows.covering(width, 10, overlap)
    assert (windows.count, windows.width) == (count, whole) and windows.width >= width


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("unit", [1, 4])
def test_blend_undoes_cut(overlap: float, unit: int):
    windows = Windows.covering(37, 10, overlap)
    x = torch.randn(3, 2, windows.width * unit)
    pieces = windows.cut(x, unit)
    assert pieces.shape == (3 * windows.count, 2, 10 * unit)
    assert pieces[windows.count].equal(x[1, :, : 10 * unit])
    torch.testing.assert_close(windows.blend(pieces, unit), x)


def test_one_window_changes_nothing():
    windows, x = Windows.covering(10, 10, 0.5), torch.randn(2, 3, 10)
    assert windows.cut(x) is x and windows.blend(x) is x


def test_a_window_counts_least_at_its_ends():
    windows = Windows.covering(15, 10, 0.5)
    mixed = windows.blend(torch.tensor([0.0, 1.0]).view(2, 1).expand(2, 10))[0]
    assert mixed[:5].eq(0).all() and mixed[10:].eq(1).all() and mixed.diff().ge(0).all()
    torch.testing.assert_close(taper(10)[:5] + taper(10)[5:], torch.ones(5))
    assert mixed[5] < 0.05 and mixed[9] > 0.95


def test_half_precision_stays():
    windows = Windows.covering(15, 10, 0.5)
    assert windows.blend(torch.ones(2, 10, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("overlap", [-0.1, 0.95, float("nan")])
def test_a_wrong_overlap_is_refused(overlap: float):
    with pytest.raises(ValueError, match="window_overlap must be from 0 to 0.9"):
        Windows.covering(20, 10, overlap)


@torch.no_grad()
def test_chunks_equal_the_whole():
    """With the published rates and kernels, which decide how far a vocoder sees."""
    torch.manual_seed(0)
    config = SpeechT5HifiGanConfig(
        model_in_dim=8, upsample_initial_channel=16, upsample_rates=[8, 8, 2, 2],
        upsample_kernel_sizes=[16, 16, 4, 4], normalize_before=False, initializer_range=0.3,
    )  # fmt: skip
    vocoder = SpeechT5HifiGan(config).eval().double()  # rounding is then far below the tolerance
    mel = torch.randn(2, 8, 110)
    whole = vocode_in_chunks(mel, vocoder, CallSize(110, 220))
    assert whole.shape == (2, 110 * 256) and whole.std() > 1e-3
    for size in (CallSize(60, 60), CallSize(60, 120), CallSize(110, 110)):
        torch.testing.assert_close(vocode_in_chunks(mel, vocoder, size), whole, rtol=0, atol=1e-6)
    assert (vocode_in_chunks(mel, vocoder, CallSize(60, 60), context=2) - whole).abs().max() > 1e-3


def test_pieces_cover_every_frame_of_every_sound_once():
    for sounds, frames, size in ((1, 37500, (640, 640)), (16, 160, (640, 640)), (5, 624, (2048, 2000)), (2, 7, (3, 1))):
        seen = torch.zeros(sounds, frames, dtype=torch.int)
        for some, start, end, left, right in cut_pieces(sounds, frames, 32, CallSize(*size)):
            seen[some, start:end] += 1
            assert (left, right) == (max(0, start - 32), min(frames, end + 32))
            assert end - start <= size[0] and (len(seen[some]) == 1 or len(seen[some]) * (end - start) <= size[1])
        assert seen.eq(1).all()


def test_a_cpu_gets_small_groups_of_clips():
    groups = [piece.sounds for piece in vocoder_pieces(torch.zeros(9, 80, 160))]
    assert groups == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert len(vocoder_pieces(torch.zeros(1, 80, 624))) == 1  # a published clip is not cut
    assert len(vocoder_pieces(torch.zeros(16, 80, 160, device="meta"))) == 1
