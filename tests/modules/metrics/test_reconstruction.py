import math

import pytest
import torch

from sonolume.modules.metrics.reconstruction import log_spectral_distance, mel_l1, si_sdr, stft_distance


def test_a_louder_mel_is_as_far_as_it_is_louder() -> None:
    mel = torch.randn(2, 8, 10)
    louder = mel + math.log(10) * torch.tensor([1.0, 0.0])[:, None, None]  # tenfold amplitude: 20 dB
    assert mel_l1(mel, louder).tolist() == pytest.approx([math.log(10), 0], rel=1e-5)
    assert log_spectral_distance(mel, louder).tolist() == pytest.approx([20, 0], rel=1e-5)


def test_the_spectral_distance_weighs_large_errors_more_than_l1() -> None:
    mel, one_band = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    one_band[:, 0] = 2.0
    assert float(mel_l1(mel, one_band)) == pytest.approx(0.5)
    assert float(log_spectral_distance(mel, one_band)) == pytest.approx(20 / math.log(10) * 1.0)  # sqrt(4 / 4)


def test_stft_distance_of_a_wave_of_half_the_size() -> None:
    wave = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert stft_distance(wave, wave).tolist() == [0, 0]
    assert stft_distance(wave, wave / 2).tolist() == pytest.approx([0.5 + math.log(2)] * 2, rel=1e-3)


def test_stft_distance_is_finite_for_silence_on_the_rebuilt_side() -> None:
    assert stft_distance(torch.randn(1, 8000), torch.zeros(1, 8000)).isfinite().all()


def test_si_sdr_by_hand_and_at_any_scale() -> None:
    wave = torch.zeros(1, 4000, dtype=torch.float64)
    wave[0, ::2] = torch.randn(2000, generator=torch.Generator().manual_seed(1)).double()
    error = torch.zeros_like(wave)
    error[0, 1::2] = wave[0, ::2] / 10  # orthogonal, a tenth of the amplitude: 20 dB
    assert float(si_sdr(wave, wave + error)) == pytest.approx(20, abs=1e-3)
    assert float(si_sdr(wave, 5 * (wave + error))) == pytest.approx(20, abs=1e-3)


def test_si_sdr_of_silence_is_no_number() -> None:
    wave = torch.stack([torch.randn(4000), torch.randn(4000), torch.zeros(4000)])
    found = si_sdr(wave, wave * torch.tensor([2.0, 0.0, 1.0])[:, None])
    assert found[0] > 50 and found[1:].isnan().all()
