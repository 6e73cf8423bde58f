import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram

GOLDENS = Path(__file__).parents[1] / "goldens"


def test_equals_the_official_mel():
    golden = np.load(GOLDENS / "amphion_tta" / "mel_10s.npz")
    signal = runpy.run_path(str(GOLDENS / "inputs.py"))["mel_signal"](160000)
    np.testing.assert_allclose(signal[:64].numpy(), golden["signal_head"], atol=1e-7, rtol=0)
    assert abs(signal.double().sum().item() - golden["signal_sum"]) < 1e-3
    mel = MelSpectrogram()(signal[None])[0]
    assert mel.shape == (80, 625)
    np.testing.assert_allclose(mel.numpy(), golden["mel"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(("samples", "frames"), [(385, 1), (512, 2), (40960, 160), (41215, 160), (41216, 161)])
def test_frames_are_whole_hops(samples: int, frames: int):
    assert MelSpectrogram()(torch.randn(2, samples)).shape == (2, 80, frames)


def test_silence_is_the_floor():
    mel = MelSpectrogram()(torch.zeros(1, 4096))
    torch.testing.assert_close(mel, torch.full_like(mel, float(np.log(MEL_FLOOR))))


def test_short_window_and_other_settings():
    settings = MelSettings(n_fft=512, win_size=400, hop_size=160, n_mel=40, fmin=50, fmax=7000)
    time = torch.arange(16000) / 16000
    mel = MelSpectrogram(settings)(torch.stack([torch.sin(2 * torch.pi * hz * time) for hz in (200, 5000)]))
    assert mel.shape == (2, 40, 100)
    low, high = mel.mean(-1).argmax(-1)
    assert low < 10 < 30 < high


def test_state_dict_is_empty_and_settings_come_from_a_section():
    class Section:
        sample_rate, n_fft, win_size, hop_size, n_mel, fmin, fmax, other = 16000, 1024, 1024, 256, 64, 0, 8000, "x"

    mel = MelSpectrogram(MelSettings.of(Section()))
    assert mel.basis.shape == (64, 513)
    assert not mel.state_dict()


@pytest.mark.parametrize("wrong", [{"hop_size": 2000}, {"hop_size": 255}, {"fmax": 9000.0}, {"win_size": 2048}])
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(ValueError, match="does not hold|odd"):
        MelSettings(**wrong)


def test_too_short_a_wave_is_refused():
    with pytest.raises(ValueError, match="at least 385"):
        MelSpectrogram()(torch.zeros(1, 384))
