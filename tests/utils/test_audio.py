from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.utils import audio
from sonolume.utils.errors import UserError


def tone(hz: float, seconds: float, sample_rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_reads_common_formats_at_any_rate(tmp_path: Path, suffix: str):
    path = tmp_path / f"tün  (1){suffix}"
    soundfile.write(path, np.stack([tone(440, 1, 44100)] * 2, axis=1), 44100)
    wave = audio.load(path, 16000)
    assert wave.dtype == np.float32
    assert abs(len(wave) - 16000) <= 1600  # mp3 pads
    peak = np.abs(np.fft.rfft(wave[2000:14000])).argmax() * 16000 / 12000
    assert peak == pytest.approx(440, abs=2)
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.05)


def test_resampling_keeps_the_wave(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", tone(1000, 0.5, 48000), 48000, subtype="FLOAT")
    np.testing.assert_allclose(
        audio.load(tmp_path / "a.wav", 16000)[200:-200], tone(1000, 0.5, 16000)[200:-200], atol=1e-3
    )


def test_channels(tmp_path: Path):
    left, right = tone(300, 0.2, 16000), np.zeros(3200, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav", 16000), left / 2)
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav", 16000, mono=False), np.stack([left, right]))


def test_a_limit_in_seconds_gives_the_start_of_the_whole(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", tone(700, 2, 44100), 44100, subtype="FLOAT")
    part, whole = audio.load(tmp_path / "a.wav", 16000, seconds=1.0), audio.load(tmp_path / "a.wav", 16000)
    assert len(part) == 16000
    np.testing.assert_allclose(part, whole[:16000], atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"not a sound", b"RIFF\x00\x00\x00\x00WAVE"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.wav: not readable as sound"):
        audio.load(tmp_path / "bad.wav", 16000)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.wav: no such sound file"):
        audio.load(tmp_path / "gone.wav", 16000)


def test_saving_clips_instead_of_wrapping(tmp_path: Path):
    audio.save_wav(tmp_path / "a.wav", np.array([0.0, 0.5, 1.5, -7.0], np.float32), 16000)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert (samples.tolist(), rate) == ([0, 16384, 32767, -32767], 16000)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_saving_and_loading_two_channels(tmp_path: Path):
    wave = np.stack([tone(440, 0.1, 16000), -tone(880, 0.1, 16000)])
    audio.save_wav(tmp_path / "new folder" / "a.wav", wave, 16000)
    np.testing.assert_allclose(audio.load(tmp_path / "new folder" / "a.wav", 16000, mono=False), wave, atol=5e-5)


def test_nothing_is_left_of_a_failed_save(tmp_path: Path):
    with pytest.raises(ValueError, match="NaN"):
        audio.save_wav(tmp_path / "a.wav", np.array([0.0, np.nan]), 16000)
    assert list(tmp_path.iterdir()) == []
