from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.models.evaluation.samples import is_clipped, read_sound
from sonolume.utils import audio
from sonolume.utils.errors import UserError

Wav = Callable[..., Path]


def tone(hertz: float, seconds: float, rate: int, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_a_tone_survives_resampling_twice(wav: Wav) -> None:
    """1 kHz at 44.1 -> 16 -> 48 kHz: the same frequency, and the energy of a sine of 0.5."""
    there, _ = read_sound(wav("a.wav", tone(1000, 1, 44100), 44100), 16000)
    back, _ = read_sound(wav("b.wav", there, 16000), 48000)
    middle = back[4800:-4800]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * 48000 / len(middle) == pytest.approx(1000, abs=1.5)
    assert np.square(middle).mean() == pytest.approx(0.125, rel=1e-3)


@pytest.mark.parametrize(
    ("wave", "clipped"),
    [
        ([0, 1, 1, 1, 0], True),
        ([0, -1, -1, -1, 0], True),
        ([0, 32767 / 32768, 1, 32767 / 32768], True),
        ([0, 1, 1, 0, 1, 0], False),
        ([0, 0.9999, 0.9999, 0.9999], False),
        ([1, 1], False),
        ([[0, 0, 0, 0], [0, 1, 1, 1]], True),
    ],
)
def test_flat_tops(wave: list[float], clipped: bool) -> None:
    assert is_clipped(np.array(wave, np.float32)) == clipped


def test_silence() -> None:
    assert audio.is_silent(np.full(9, 0.99e-4)) and not audio.is_silent(np.full(9, -1.01e-4))
    assert audio.is_silent(np.zeros(0))


def test_clipping_is_detected_in_the_file_itself(tmp_path: Path, wav: Wav) -> None:
    """Mixing the channels and resampling would hide it."""
    clipped, fine = np.clip(tone(440, 2, 44100, 1.5), -1, 1), tone(440, 2, 44100, 0.3)
    path = wav("a.wav", np.stack([clipped, fine], axis=1), 44100)
    assert not is_clipped(audio.load(path, 16000))
    assert read_sound(path, 16000)[1]
    assert not read_sound(wav("b.wav", fine, 44100), 16000)[1]
    audio.save_wav(tmp_path / "c.wav", clipped, 44100)
    assert read_sound(tmp_path / "c.wav", 16000)[1]


def test_clipping_across_a_border_of_blocks(wav: Wav) -> None:
    wave = np.zeros(70000, np.float32)
    wave[65534:65537] = 1
    assert read_sound(wav("a.wav", wave), 16000)[1]


def test_unusable_files(tmp_path: Path, wav: Wav) -> None:
    with pytest.raises(UserError, match="at least 0.1 s"):
        read_sound(wav("a.wav", tone(440, 0.09, 16000)), 16000)
    broken = tone(440, 1, 16000)
    broken[5] = np.nan
    with pytest.raises(UserError, match="NaN"):
        read_sound(wav("b.wav", broken), 16000)
    (tmp_path / "c.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match="not readable as sound"):
        read_sound(tmp_path / "c.wav", 16000)
    soundfile.write(tmp_path / "d.flac", tone(440, 0.2, 16000), 16000)
    assert read_sound(tmp_path / "d.flac", 16000)[0].shape == (3200,)
