"""Small films for tests."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RATE = 16000


def film(path: Path, seconds: float = 2.0, fps: int = 10, sound: bool = True, blank: bool = False) -> Path:
    """A bar that moves from left to right in `seconds`, and a tone that swells; 64 x 48."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = (0.5 * np.sin(2 * np.pi * 440 * time) * (0.2 + 0.8 * time / seconds)).astype(np.float32)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.codec_context.thread_count = 1
        tone = container.add_stream("aac", rate=RATE, layout="mono") if sound else None
        count = round(seconds * fps)
        for number in range(count):
            frame = np.zeros((48, 64, 3), np.uint8)
            if not blank:
                place = 60 * number // count
                frame[:, place : place + 4] = 255
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode(None))
        for start in range(0, len(wave) - 1023, 1024):
            if tone is None:
                break
            part = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = RATE, start
            container.mux(tone.encode(part))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


BITS = 8  # strips of a numbered picture


def numbered_picture(number: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture of eight strips, black or white, that spell a number; survives compression and cropping of the edge."""
    strips = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
    row = np.repeat(strips, width // BITS)
    return Image.fromarray(np.repeat(np.repeat(row[None], height, axis=0)[..., None], 3, axis=2))


def number_of(picture: Image.Image) -> int:
    values, width = np.asarray(picture.convert("L")), picture.width // BITS
    middles = [values[picture.height // 2, bit * width + width // 2] for bit in range(BITS)]
    return sum(int(value > 127) << bit for bit, value in enumerate(middles))


def numbered_film(path: Path, times: list[float], rotation: int = 0, codec: str = "mpeg4", **options: str) -> Path:
    """A film whose frame `i`, `numbered_picture(i)`, appears at times[i] seconds; the last one lasts as the first.

    Args:
        rotation: degrees of a phone's display matrix.
        options: options of the container.
    """
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as container:
        rate = Fraction(1 / times[1] if len(times) > 1 else 25).limit_denominator(1001)
        track = container.add_stream(codec, rate=rate)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        track.codec_context.thread_count = 1  # threads wait for each other on a busy machine
        track.codec_context.time_base = track.time_base = Fraction(1, 24000)
        if rotation:
            track.set_display_rotation(rotation)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_image(numbered_picture(number))
            frame.pts, frame.time_base = round(time * 24000), Fraction(1, 24000)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path
