"""The front end: equal to Kaldi's, in float32 whatever surrounds it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sonolume.modules.beats.beats import DEVIATION, FLOOR, FRAME, HOP, MEAN, fbank, log_mel

NOISE_FLOOR = 14.0  # below the largest of a frame, in ln energy: from here on rounding of the transform decides


@pytest.fixture(scope="module")
def golden(goldens: SimpleNamespace) -> dict[str, torch.Tensor]:
    arrays = np.load(goldens.AUDIOTOKEN / "fbank.npz")
    return {name: torch.from_numpy(arrays[name]) for name in arrays}


def test_log_mels_are_the_official_ones(goldens: SimpleNamespace, golden: dict[str, Any]):
    noise, chirp = log_mel(goldens.audiotoken_waves())
    goldens.assert_close(noise, golden["raw"][0], 2.1e-4)
    wanted = golden["raw"][1]
    audible = wanted > wanted.amax(1, keepdim=True) - NOISE_FLOOR
    assert 0.3 < audible.float().mean() < 0.4
    goldens.assert_close(chirp[audible], wanted[audible], 2.1e-4)


def test_normalised_as_published(goldens: SimpleNamespace, golden: dict[str, Any]):
    rows = fbank(goldens.audiotoken_wave10())[0, [0, 1, 499, 997]]
    goldens.assert_close(rows, golden["norm10_rows"], 1e-4)


def test_silence_is_the_floor(golden: dict[str, Any]):
    silence = log_mel(torch.zeros(1, 1600))
    assert silence.shape == golden["silence"].shape and torch.equal(silence, golden["silence"])
    assert fbank(torch.zeros(1, 1600))[0, 0, 0] == pytest.approx((np.log(FLOOR) - MEAN) / (2 * DEVIATION), abs=1e-6)


def test_frames(golden: dict[str, Any]):
    for samples, frames in golden["frames"].tolist():
        assert max(0, 1 + (samples - FRAME) // HOP) == frames
        if frames:
            assert log_mel(torch.zeros(1, samples)).shape == (1, frames, 128)


def test_float32_under_autocast_and_for_half_waves(goldens: SimpleNamespace):
    wave = goldens.audiotoken_waves()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(wave), log_mel(wave))
        inside = log_mel(wave)
    assert inside.dtype == torch.float32 and torch.equal(inside, log_mel(wave))
    assert log_mel(wave.half()).dtype == torch.float32


def test_a_gradient_reaches_the_wave_after_inference():
    wave = torch.randn(1, 4000, requires_grad=True)
    with torch.inference_mode():
        log_mel(wave)
    log_mel(wave).sum().backward()
    assert wave.grad is not None and wave.grad.any()


@pytest.mark.parametrize("shape", [(16000,), (1, 399), (1, 1, 16000)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="at least 400 samples"):
        log_mel(torch.zeros(shape))
