"""Checks of uploads: what is too long, too large, foreign or damaged is refused before it is decoded."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from sonolume.utils.errors import UserError
from sonolume.web import uploads
from sonolume.web.settings import Settings

SETTINGS = Settings(max_seconds=2.0)
CHECKS = [uploads.check_sound, uploads.check_picture, uploads.check_video]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of uploads."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def sound(path: Path, seconds: float, rate: int = 8000, channels: int = 1) -> Path:
    soundfile.write(path, np.zeros((round(seconds * rate), channels), np.float32), rate)
    return path


def png(path: Path, width: int, height: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Write a PNG whose header names any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = b"".join(chunk(*one) for one in chunks) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    return path


def film(
    path: Path, frames: int = 10, fps: int = 10, size: tuple[int, int] = (32, 32), sound_seconds: float = 0
) -> Path:
    """Write a video of any size and rate; its sound may be longer than its pictures."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        track = file.add_stream("mpeg4", rate=fps)
        track.width, track.height, track.pix_fmt = *size, "yuv420p"
        audio = file.add_stream("aac", rate=8000) if sound_seconds else None
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), number, np.uint8), format="rgb24")
            file.mux(track.encode(picture))
        file.mux(track.encode(None))
        if audio is not None:
            wave = np.zeros((1, round(sound_seconds * 8000)), np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = 8000
            file.mux(audio.encode(frame))
            file.mux(audio.encode(None))
    return path


def refused(check: Callable[..., Path], path: object) -> str:
    with pytest.raises(UserError) as caught:
        check(path, SETTINGS)
    message = str(caught.value)
    assert "\n" not in message and os.sep not in message
    return message


def test_good_files(folder: Path) -> None:
    assert uploads.check_sound(str(sound(folder / "a.wav", 2)), SETTINGS) == folder / "a.wav"
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    assert uploads.check_picture(folder / "a.jpg", SETTINGS) == folder / "a.jpg"
    assert uploads.check_video(film(folder / "a.mp4", sound_seconds=1), SETTINGS) == folder / "a.mp4"
    assert uploads.check_sound(folder / "a.mp4", SETTINGS) == folder / "a.mp4"
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    assert uploads.check_video(folder / "a.gif", SETTINGS) == folder / "a.gif"


@pytest.mark.parametrize("check", CHECKS)
def test_only_files_of_the_folder(check: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    outside = sound(tmp_path / "outside.wav", 1)
    (folder / "link.wav").symlink_to(outside)
    os.mkfifo(folder / "pipe.wav")
    (folder / "empty.wav").touch()
    for path in ("/etc/passwd", outside, folder / ".." / "outside.wav", folder / "link.wav", folder / "pipe.wav",
                 folder, folder / "none.wav", "/dev/zero", "http://127.0.0.1/a.wav", "a\0b", "x" * 5000,
                 folder / "empty.wav", None, "", 3, {"path": "a"}, ["a"]):  # fmt: skip
        refused(check, path)


@pytest.mark.parametrize("check", CHECKS)
def test_foreign_content(check: Callable[..., Path], folder: Path) -> None:
    for name, content in {
        "page.html": b"<html>", "a.svg": b"<svg/>", "text.gif": b"GIF89a",
        "noise.mp4": os.urandom(2000), "noise.wav": os.urandom(2000), "noise.png": os.urandom(2000),
        "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "list.m3u8": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "list.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
    }.items():  # fmt: skip
        (folder / name).write_bytes(content)
        refused(check, folder / name)


def test_long_sounds(folder: Path) -> None:
    assert "2.5 s" in refused(uploads.check_sound, sound(folder / "long.wav", 2.5))
    hours = sound(folder / "hours.flac", 600)  # silence: a small file of hours
    assert hours.stat().st_size < 1e6
    assert "600.0 s" in refused(uploads.check_sound, hours)
    sound(folder / "channels.wav", 0.1, channels=20)
    assert "20 channels" in refused(uploads.check_sound, folder / "channels.wav")
    assert "Hz" in refused(uploads.check_sound, sound(folder / "rate.wav", 0.0001, rate=2_000_000))
    film(folder / "a.mp4", sound_seconds=3)
    for check in (uploads.check_sound, uploads.check_video):
        assert "2 s" in refused(check, folder / "a.mp4")


def test_lying_header_of_a_container(folder: Path) -> None:
    """The sound of a container is counted, whatever its header says."""
    path = film(folder / "a.mp4", frames=5, sound_seconds=5)
    data = bytearray(path.read_bytes())
    for kind, at in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):  # durations, in their units, become 1
        start = data.find(kind)
        while start >= 0:
            data[start + 4 + at - 0 : start + 8 + at] = struct.pack(">I", 1)
            start = data.find(kind, start + 4)
    path.write_bytes(data)
    refused(uploads.check_sound, path)
    refused(uploads.check_video, path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "100 megapixels" in refused(uploads.check_picture, png(folder / "large.png", 10_000, 10_000))
    refused(uploads.check_picture, png(folder / "bomb.png", 60_000, 60_000))
    text = b"comment\0\0" + zlib.compress(bytes(70_000_000), 9)
    refused(uploads.check_picture, png(folder / "text.png", 8, 8, (b"zTXt", text)))
    refused(uploads.check_video, png(folder / "large.png", 10_000, 10_000))
    monkeypatch.setattr(uploads, "MAX_ANIMATION_PIXELS", 6000)
    many = [Image.new("L", (10, 10), i) for i in range(70)]
    many[0].save(folder / "many.gif", save_all=True, append_images=many[1:], duration=10)
    assert "frames" in refused(uploads.check_video, folder / "many.gif")


def test_long_videos(folder: Path) -> None:
    assert "3.0 s" in refused(uploads.check_video, film(folder / "a.mp4", frames=30))
    assert "pixels" in refused(uploads.check_video, film(folder / "b.mp4", frames=1, size=(4096, 2320)))
    assert "frames" in refused(uploads.check_video, film(folder / "c.mp4", frames=30, fps=500))
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(3)]
    frames[0].save(folder / "slow.gif", save_all=True, append_images=frames[1:], duration=60_000)
    assert "180.0 s" in refused(uploads.check_video, folder / "slow.gif")
