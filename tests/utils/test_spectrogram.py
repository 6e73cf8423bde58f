from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonolume.utils.spectrogram import colours, spectrogram_png


def test_low_frequencies_are_at_the_bottom_and_time_runs_right(tmp_path: Path):
    log_mel = np.full((80, 160), -11.5, np.float32)
    log_mel[:20, 80:] = 0.0  # low and late
    spectrogram_png(tmp_path / "a.png", log_mel)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"), dtype=float)
    plot = picture[8:-30, 46:-12]
    height, width = plot.shape
    low_late = plot[-height // 8 :, -width // 4 :].mean()
    assert low_late > 200
    assert plot[: height // 2].max() < 60
    assert plot[:, : width // 3].max() < 60


def test_axes_are_drawn(tmp_path: Path):
    spectrogram_png(tmp_path / "a.png", np.zeros((80, 625), np.float32))
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert (picture[:, :46] < 100).sum() > 100  # Hz labels
    assert (picture[-28:] < 100).sum() > 100  # seconds


def test_colours_grow_brighter_and_silence_is_dark():
    ramp = colours(np.linspace(-11.5, 2.0, 50)[None]).astype(float).sum(-1)[0]
    assert (np.diff(ramp) >= 0).all()
    assert ramp[-1] - ramp[0] > 500
    assert colours(np.full((4, 4), -11.5)).max() < 40


@pytest.mark.parametrize("wrong", [np.zeros(5), np.zeros((80, 0)), np.full((2, 2), np.nan)])
def test_what_is_no_spectrogram_is_refused(tmp_path: Path, wrong: np.ndarray):
    with pytest.raises(ValueError, match="bands, frames"):
        spectrogram_png(tmp_path / "a.png", wrong)
    assert list(tmp_path.iterdir()) == []
