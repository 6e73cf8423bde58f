import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

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


def test_a_tone_keeps_its_energy_from_rate_to_rate(tmp_path: Path):
    wave, rate = tone(1000, 1.0, 44100), 44100
    power = (wave**2).mean()
    for new_rate in (16000, 48000):
        soundfile.write(tmp_path / f"{rate}.wav", wave, rate, subtype="FLOAT")
        wave, rate = audio.load(tmp_path / f"{rate}.wav", new_rate), new_rate
        assert len(wave) == rate
        assert (wave[rate // 50 : -rate // 50] ** 2).mean() == pytest.approx(power, rel=1e-3)


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


@pytest.mark.parametrize("content", [b"not a sound", b"RIFF\x00\x00\x00\x00WAVE"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.wav: not readable as sound"):
        audio.load(tmp_path / "bad.wav", 16000)


@pytest.mark.parametrize(
    ("sample_rate", "channels", "subtype"),
    [(96000, 7, "PCM_16"), (11025, 1, "PCM_U8"), (48000, 2, "PCM_24"), (44100, 3, "DOUBLE"), (8000, 1, "ULAW")],
)
def test_any_rate_channels_and_depth(tmp_path: Path, sample_rate: int, channels: int, subtype: str):
    wave = tone(440, 1, sample_rate)
    soundfile.write(tmp_path / "a.wav", np.stack([wave] * channels, axis=1), sample_rate, subtype=subtype)
    loaded = audio.load(tmp_path / "a.wav", 16000)
    assert loaded.shape == (16000,)
    np.testing.assert_allclose(loaded[500:-500], tone(440, 1, 16000)[500:-500], atol=0.02)
    assert audio.load(tmp_path / "a.wav", 16000, mono=False).shape == (channels, 16000)


def test_float_files_keep_their_level(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", 8 * tone(440, 0.1, 16000), 16000, subtype="FLOAT")
    assert np.abs(audio.load(tmp_path / "a.wav", 16000)).max() == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("file", ["a.wav", "a.flac", "a.mp3"])  # seeking to the next piece changes samples of mp3
def test_pieces_are_those_of_the_whole(tmp_path: Path, file: str):
    count = 3 * audio.BLOCK_FRAMES + 77
    wave = 0.2 * np.random.default_rng(0).standard_normal(count) + tone(440, count / 44100, 44100)[:count]
    soundfile.write(tmp_path / file, wave, 44100, subtype="FLOAT" if file == "a.wav" else None)
    whole, _ = soundfile.read(tmp_path / file, dtype="float32")
    np.testing.assert_array_equal(audio.load(tmp_path / file, 44100), whole)
    np.testing.assert_array_equal(audio.load(tmp_path / file, 16000), soxr.resample(whole, 44100, 16000))


def test_an_hour_is_not_read_for_its_first_seconds(tmp_path: Path):
    frames = 3600 * 96000
    soundfile.write(tmp_path / "long.wav", np.full((96000, 2), 0.25), 96000, subtype="PCM_16")
    with (tmp_path / "long.wav").open("r+b") as file:  # the rest is a hole: silence that takes no room
        file.seek(4)
        file.write(struct.pack("<I", 36 + 4 * frames))
        file.seek(40)
        file.write(struct.pack("<I", 4 * frames))
        file.truncate(44 + 4 * frames)
    assert soundfile.info(tmp_path / "long.wav").duration == 3600
    tracemalloc.start()
    wave = audio.load(tmp_path / "long.wav", 16000, seconds=2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wave) == 32000
    assert wave[8000] == pytest.approx(0.25, abs=1e-3)
    assert peak < 20e6


def test_a_file_shorter_than_its_header_says_is_cut_short(tmp_path: Path):
    soundfile.write(tmp_path / "whole.wav", tone(440, 2, 16000), 16000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:32044])
    with pytest.raises(audio.SoundError, match=r"2\.00 s.* 1\.00 s") as caught:
        audio.load(tmp_path / "a.wav", 16000)
    assert caught.value.reason == "truncated"
    assert len(audio.load(tmp_path / "a.wav", 16000, seconds=0.9)) == 14400  # what is asked for is there


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_header_that_does_not_know_the_length_is_no_damage(tmp_path: Path, size: int):
    soundfile.write(tmp_path / "a.wav", tone(440, 1, 16000), 16000)
    with (tmp_path / "a.wav").open("r+b") as file:
        file.seek(40)
        file.write(struct.pack("<I", size))
    assert len(audio.load(tmp_path / "a.wav", 16000)) == (16000 if size else 0)


@pytest.mark.parametrize(
    ("name", "reason"), [("empty.wav", "empty"), ("gone.wav", "missing"), ("bad.wav", "unreadable")]
)
def test_errors_say_what_to_count_them_by(tmp_path: Path, name: str, reason: str):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "bad.wav").write_text("text")
    with pytest.raises(audio.SoundError) as caught:
        audio.load(tmp_path / name, 16000)
    assert caught.value.reason == reason


def test_a_rate_of_one_sample_a_second_is_refused(tmp_path: Path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 1)
    with pytest.raises(UserError, match="sample rate 1 Hz"):
        audio.load(tmp_path / "a.wav", 16000)


def encode(path: Path, codec: str, sample_rate: int, sound: bool = True, picture: bool = False) -> Path:
    """A second of 440 Hz (stereo, 0.5) and of black pictures."""
    av = pytest.importorskip("av")
    wave = np.stack([tone(440, 1, sample_rate)] * 2)
    with av.open(str(path), "w") as container:
        if picture:
            video = container.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        if sound:
            stream = container.add_stream(codec, rate=sample_rate, layout="stereo")
        if picture:
            for _ in range(10):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound:
            for start in range(0, wave.shape[1] - 960, 960):
                part = np.ascontiguousarray(wave[:, start : start + 960])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = sample_rate, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate", "picture"),
    [
        ("a.m4a", "aac", 44100, False),
        ("a.aac", "aac", 22050, False),
        ("a.mka", "aac", 48000, False),
        ("a.mp4", "aac", 44100, True),
        ("a.mov", "aac", 32000, True),
        ("a.mkv", "aac", 48000, True),
        ("named wrongly.wav", "aac", 44100, False),
    ],
)
def test_the_sound_track_of_what_libsndfile_cannot_read(
    tmp_path: Path, name: str, codec: str, sample_rate: int, picture: bool
):
    path = tmp_path / name
    if name.endswith(".wav"):
        encode(tmp_path / "a.m4a", codec, sample_rate).rename(path)
    else:
        encode(path, codec, sample_rate, picture=picture)
    wave = audio.load(path, 16000)
    assert 15000 < len(wave) < 17500  # the codec's delay and last block
    middle = wave[4000:12000]
    assert np.abs(np.fft.rfft(middle)).argmax() * 2 == pytest.approx(440, abs=2)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.03)
    assert len(audio.load(path, 16000, seconds=0.25)) == 4000
    assert audio.load(path, 16000, mono=False).shape[0] == 2


def test_a_video_without_sound_is_refused(tmp_path: Path):
    path = encode(tmp_path / "a.mp4", "", 0, sound=False, picture=True)
    with pytest.raises(audio.SoundError, match=r"a\.mp4: a video without a sound track") as caught:
        audio.load(path, 16000)
    assert caught.value.reason == "no sound track"


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    with pytest.raises(audio.SoundError, match=r'\.m4a files need PyAV: .* -m pip install -e ".*\[video\]"') as caught:
        audio.load(tmp_path / "a.m4a", 16000)
    assert caught.value.reason == "needs PyAV"
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(audio.SoundError, match="not readable as sound"):
        audio.load(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_a_list_of_other_files_is_not_followed(tmp_path: Path, suffix: str):
    encode(tmp_path / "secret.m4a", "aac", 44100)
    (tmp_path / f"a.{suffix}").write_text("ffconcat version 1.0\nfile secret.m4a\n")
    with pytest.raises(audio.SoundError) as caught:
        audio.load(tmp_path / f"a.{suffix}", 16000)
    assert caught.value.reason == "unreadable"


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.wav: no such sound file"):
        audio.load(tmp_path / "gone.wav", 16000)


def test_saving_clips_instead_of_wrapping(tmp_path: Path):
    audio.save_wav(tmp_path / "a.wav", np.array([0.0, 0.5, 1.5, -7.0], np.float32), 16000)
    samples, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert (samples.tolist(), rate) == ([0, 16384, 32767, -32768], 16000)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_a_16_bit_file_comes_back_as_it_was(tmp_path: Path):
    samples = np.arange(-32768, 32768, 7).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="PCM_16")
    audio.save_wav(tmp_path / "b.wav", audio.load(tmp_path / "a.wav", 16000), 16000)
    assert soundfile.read(tmp_path / "b.wav", dtype="int16")[0].tolist() == samples.tolist()


def test_saving_and_loading_two_channels(tmp_path: Path):
    wave = np.stack([tone(440, 0.1, 16000), -tone(880, 0.1, 16000)])
    audio.save_wav(tmp_path / "new folder" / "a.wav", wave, 16000)
    np.testing.assert_allclose(audio.load(tmp_path / "new folder" / "a.wav", 16000, mono=False), wave, atol=5e-5)


def test_nothing_is_left_of_a_failed_save(tmp_path: Path):
    with pytest.raises(ValueError, match="NaN"):
        audio.save_wav(tmp_path / "a.wav", np.array([0.0, np.nan]), 16000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (np.zeros(0), "empty"),
        (np.array([0.5, np.nan]), "NaN"),
        (np.full(100, 0.5), "too short"),
        (np.full((2, 16000), 1e-5), "silent"),
    ],
)
def test_check_wave_gives_the_reason(wave: np.ndarray, reason: str) -> None:
    with pytest.raises(audio.SoundError, match=r"a\.wav") as caught:
        audio.check_wave(wave, 16000, Path("a.wav"), min_seconds=0.1)
    assert caught.value.reason == reason


def test_check_wave_accepts_silence_where_it_is_wanted() -> None:
    audio.check_wave(np.zeros(16000), 16000, "a.wav", min_seconds=1.0, silent_ok=True)
    audio.check_wave(np.full((2, 16000), 1.5), 16000, "a.wav", min_seconds=1.0)


def test_limit_peak_only_makes_quieter() -> None:
    wave, gain = audio.limit_peak(np.array([0.5, -4.0]))
    assert gain == 0.25 and wave.tolist() == [0.125, -1.0]
    for quiet in (np.array([0.5, -1.0]), np.zeros(0)):
        assert audio.limit_peak(quiet)[0] is quiet and audio.limit_peak(quiet)[1] == 1.0


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    audio.save_wav(tmp_path / "a.wav", np.full(100, 0.5, np.float32), 16000)
    (tmp_path / "a.wav").rename(tmp_path / "b\udcff.wav")
    assert len(audio.load(tmp_path / "b\udcff.wav", 16000)) == 100


def test_a_peak_beyond_any_range() -> None:
    with pytest.raises(audio.SoundError) as caught:
        audio.check_wave(np.array([0, 1e30], np.float32), 16000, "a.wav")
    assert caught.value.reason == "out of range"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mono_is_the_mean_of_the_channels_to_the_bit(tmp_path: Path, channels: int) -> None:
    samples = np.random.default_rng(0).standard_normal((70_000, channels)).astype(np.float32)  # more than one block
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert np.array_equal(audio.load(tmp_path / "a.wav", 16000), np.ascontiguousarray(samples.T).mean(axis=0))
