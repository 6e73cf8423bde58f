import bisect
import functools
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from sonolume.utils import audio, video
from sonolume.utils.video import VideoError
from tests.videos import RATE, film, number_of, numbered_film, numbered_picture

REAL = Path(os.environ.get("SONOLUME_TEST_DATA", "absent")) / "video"


def bar(picture: object) -> float:
    """Where the bright bar stands, in px."""
    columns = np.asarray(picture, np.float64).mean(axis=(0, 2))
    return float((columns * np.arange(len(columns))).sum() / columns.sum())


def test_pictures_come_by_their_time_in_the_asked_order(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", seconds=2, fps=10)
    late, early, middle = video.frames_at(path, [1.75, 0.0, 1.05])
    assert [round(frame.seconds, 3) for frame in (late, early, middle)] == [1.7, 0.0, 1.0]
    assert late.picture.size == (64, 48)
    for frame in (late, early, middle):
        number = round(frame.seconds * 10)
        assert bar(frame.picture) == pytest.approx(60 * number // 20 + 1.5, abs=1.5)


def test_past_the_end_is_the_last_picture(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", seconds=1, fps=10)
    assert round(video.frames_at(path, [1.0])[0].seconds, 3) == 0.9  # the official code fails here
    assert round(video.frames_at(path, [99.0])[0].seconds, 3) == 0.9


def test_jumping_ahead_finds_the_same_picture_as_decoding_all(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", seconds=8, fps=10)
    all_of_them = video.frames_at(path, [0.0, 7.05])
    assert video.frames_at(path, [7.05])[0].seconds == all_of_them[1].seconds
    assert round(all_of_them[1].seconds, 3) == 7.0


def test_facts(tmp_path: Path) -> None:
    facts = video.probe(film(tmp_path / "a.mp4", seconds=2, fps=10, sound=False))
    assert facts == (pytest.approx(2.0), 10.0)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://somewhere/a.ts\n")
    with pytest.raises(VideoError, match=r"text\.mp4: damaged") as caught:
        video.probe(tmp_path / "text.mp4")
    assert caught.value.reason == "unreadable video"
    with pytest.raises(VideoError, match=r"none\.mp4: no such video"):
        video.frames_at(tmp_path / "none.mp4", [0.0])


def test_a_film_that_was_cut(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"a\.mp4: "):
        video.frames_at(path, [0.0])


RATES = {
    "5": [i / 5 for i in range(10)], "25": [i / 25 for i in range(25)], "30": [i / 30 for i in range(30)],
    "120": [i / 120 for i in range(60)], "variable": [0, 0.1, 0.15, 0.5, 0.51, 0.52, 0.9, 1.4, 1.5], "one": [0.0],
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])  # times in 1/24000 s; rounded to 1 ms; from 0.1 s on
@pytest.mark.parametrize("rate", RATES)
def test_stream_shows_the_frame_of_each_time_at_any_rate(tmp_path: Path, rate: str, suffix: str) -> None:
    times = RATES[rate]
    path = numbered_film(tmp_path / f"a{suffix}", times)
    length = times[-1] + (times[1] if rate != "variable" or suffix != ".ts" else 0.1) if len(times) > 1 else 0.0
    expected = [bisect.bisect_right(times, k / 30 + 0.001) - 1 for k in range(max(1, round(length * 30)))]
    assert [number_of(frame.picture) for frame in video.stream_frames(path)] == expected


def test_stream_from_a_start_and_for_some_seconds(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", [i / 10 for i in range(80)])
    found = list(video.stream_frames(path, fps=5, start=6.0, seconds=1.0))
    assert [number_of(frame.picture) for frame in found] == [60, 62, 64, 66, 68]
    assert [number_of(frame.picture) for frame in video.stream_frames(path, fps=5, start=7.8, seconds=9)] == [78]
    assert len(list(video.stream_frames(path, start=99.0))) == 1  # at least one
    with pytest.raises(ValueError, match="fps"):
        next(video.stream_frames(path, fps=0))


def test_stream_decodes_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    plain = video._Interval.frame.func  # type: ignore[attr-defined]
    counted = functools.cached_property(lambda interval: converted.append(1) or plain(interval))
    counted.__set_name__(video._Interval, "frame")
    monkeypatch.setattr(video._Interval, "frame", counted)
    stream = video.stream_frames(numbered_film(tmp_path / "a.mp4", [i / 10 for i in range(40)]), fps=30)
    first = [next(stream) for _ in range(3)]
    assert len(converted) == 1 and first[0] is first[2]  # shown three times, converted once
    assert len(list(stream)) == 117 and len(converted) == 40


@pytest.mark.parametrize(("degrees", "size"), [(90, (48, 64)), (180, (64, 48)), (270, (48, 64))])
def test_phone_videos_are_upright(tmp_path: Path, degrees: int, size: tuple[int, int]) -> None:
    path = numbered_film(tmp_path / "a.mp4", [0.0, 0.1], rotation=degrees)
    (frame,) = video.frames_at(path, [0.1])
    assert frame.picture.size == size
    assert number_of(frame.picture.rotate(-degrees, expand=True)) == 1


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_animated_pictures_are_films(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    first, *others = [numbered_picture(number) for number in range(5)]
    path = tmp_path / f"a{suffix}"
    settings = {"lossless": True} if suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=others, duration=[100, 50, 50, 200, 100], **settings)
    assert video.probe(path) == (pytest.approx(0.5), pytest.approx(10))
    found = [number_of(frame.picture) for frame in video.stream_frames(path, fps=20)]
    assert found == [0, 0, 1, 2, 3, 3, 3, 3, 4, 4]
    assert [number_of(frame.picture) for frame in video.frames_at(path, [9.0, 0.31])] == [4, 3]
    assert video.is_film(path) and video.is_film(Path("a.mp4"))
    first.save(tmp_path / f"still{suffix}")
    assert not video.is_film(tmp_path / f"still{suffix}") and not video.is_film(tmp_path / "none.webp")
    assert len(list(video.stream_frames(tmp_path / f"still{suffix}"))) == 1
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(VideoError, match="damaged"):
        list(video.stream_frames(path))


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4"])
def test_a_cut_video_is_an_error(tmp_path: Path, suffix: str) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    codec = "libvpx" if suffix == ".webm" else "mpeg4"
    path = numbered_film(tmp_path / f"a{suffix}", [i / 10 for i in range(30)], codec=codec, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"a\.\w+: (cut|damaged)"):
        list(video.stream_frames(path))


def test_files_without_pictures(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    for name, codec in (("sound.mp4", "aac"), ("none.mkv", "mpeg4")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=16000 if codec == "aac" else 25)
            if codec == "aac":
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate = 16000
                container.mux(stream.encode(frame))
            else:
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                container.start_encoding()
            container.mux(stream.encode(None))
    with pytest.raises(VideoError) as caught:
        video.probe(tmp_path / "sound.mp4")
    assert caught.value.reason == "no pictures"
    with pytest.raises(VideoError, match="no frame|damaged"):
        list(video.stream_frames(tmp_path / "none.mkv"))


def test_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"0")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match="PyAV") as caught:
        next(video.stream_frames(tmp_path / "a.mp4"))
    assert caught.value.reason == "needs PyAV"


def packets(path: Path) -> list[bytes]:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def chirp(seconds: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * time) * time) * (time % 0.5 < 0.3)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
def test_mux_copies_the_pictures_and_replaces_the_sound(tmp_path: Path, suffix: str) -> None:
    path, result, wave = film(tmp_path / f"a{suffix}"), tmp_path / "new" / f"b{suffix}", chirp(2.0)
    before = path.read_bytes()
    video.mux(path, wave, RATE, result)
    assert packets(result) == packets(path) and path.read_bytes() == before
    found = audio.load(result, RATE)
    seconds = video.probe(path).seconds
    assert len(found) / RATE == pytest.approx(seconds, abs=0.05)
    assert np.corrcoef(found[: len(wave)], wave[: len(found)])[0, 1] > 0.98
    assert video.probe(result).seconds == pytest.approx(seconds, abs=0.05)
    assert [file.name for file in result.parent.iterdir()] == [result.name]


def test_mux_keeps_the_old_sound_too(tmp_path: Path) -> None:
    path, wave = film(tmp_path / "a.mp4"), chirp(1.0)
    old = audio.load(path, RATE)[: 2 * RATE]
    video.mux(path, wave, RATE, tmp_path / "b.mp4", keep_sound=0.5)
    found = audio.load(tmp_path / "b.mp4", RATE)[: 2 * RATE]
    expected = 0.5 * old + np.pad(wave, (0, len(old) - len(wave)))  # the new one is shorter than the video
    assert np.corrcoef(found[: len(expected)], expected)[0, 1] > 0.98
    mute = film(tmp_path / "mute.mp4", sound=False)
    video.mux(mute, np.stack([chirp(9.0)] * 2), RATE, tmp_path / "c.mp4", keep_sound=1.0)  # stereo, too long
    assert video.probe(tmp_path / "c.mp4").seconds == pytest.approx(2.0, abs=0.05)
    assert audio.load(tmp_path / "c.mp4", RATE, mono=False).shape[0] == 2


def test_mux_keeps_phone_videos_upright_and_starts_at_0(tmp_path: Path) -> None:
    path = numbered_film(tmp_path / "a.mp4", [i / 10 for i in range(10)], rotation=90)
    video.mux(path, chirp(1.0), RATE, tmp_path / "b.mp4")
    assert next(video.stream_frames(tmp_path / "b.mp4")).picture.size == (48, 64)
    late = numbered_film(tmp_path / "a.ts", [i / 10 for i in range(10)])  # its clock starts above 0
    video.mux(late, chirp(1.0), RATE, tmp_path / "c.mkv")
    assert np.corrcoef(audio.load(tmp_path / "c.mkv", RATE)[:RATE], chirp(1.0))[0, 1] > 0.98
    assert [number_of(frame.picture) for frame in video.stream_frames(tmp_path / "c.mkv", 10)] == list(range(10))


def test_a_full_disk_is_no_damaged_video(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path, limits = film(tmp_path / "a.mp4", sound=False), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            video.mux(path, chirp(1.0), RATE, tmp_path / "b.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "b.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_what_cannot_be_muxed_is_one_line(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", sound=False)
    numbered_picture(0).save(tmp_path / "a.png")
    numbered_picture(0).save(tmp_path / "b.webp", save_all=True, append_images=[numbered_picture(1)])
    for wrong in (tmp_path / "a.png", tmp_path / "b.webp"):
        with pytest.raises(VideoError, match="picture"):
            video.mux(wrong, chirp(1.0), RATE, tmp_path / "c.mp4")
    for name in ("c.webm", "c.txt"):  # no mpeg4 in webm
        with pytest.raises(VideoError, match=name):
            video.mux(path, chirp(1.0), RATE, tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "a.png", "b.webp"]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SONOLUME_TEST_DATA")
def test_real_videos() -> None:
    for path in sorted(REAL.glob("*.mp4"))[:4]:
        facts = video.probe(path)
        found = video.frames_at(path, [0.5, facts.seconds])
        assert found[0].picture.size == next(video.stream_frames(path)).picture.size
        assert abs(found[0].seconds - 0.5) <= 1 / facts.fps
        assert found[1].seconds > facts.seconds - 0.2
        assert sum(1 for _ in video.stream_frames(path, seconds=2.0)) == 60
