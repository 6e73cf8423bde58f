"""Small films for tests."""

from pathlib import Path

import numpy as np
import pytest

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
