"""Seconds of sound that a core decodes in a second: pytest -m benchmark -s tests/benchmarks/test_decoding.py

`load` (decode, mix, resample to 16 kHz) in turn with libsndfile's decoder alone, which is its floor: of a second of
stereo flac or mp3 it takes about 1.45 ms of 1.9 ms, soxr 0.2 to 0.3 ms, and the mix 0.05 ms.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.utils import audio

SECONDS, SAMPLE_RATE, RUNS = 30, 44100, 7


def rate(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return SECONDS / (time.process_time() - start)


def decode(path: Path) -> None:
    for _ in audio.blocks(path):
        pass


@pytest.mark.benchmark
def test_decoding(tmp_path: Path, print_table: Callable[..., None]) -> None:
    times, rows = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE, []
    tone = 0.3 * np.sin(2 * np.pi * (440 + 100 * np.sin(times)) * times)
    for suffix in ("wav", "flac", "mp3"):
        for channels in (1, 2):
            path = tmp_path / f"{channels}.{suffix}"
            noise = 0.02 * np.random.default_rng(0).standard_normal((len(tone), channels))
            soundfile.write(path, tone[:, None] + noise, SAMPLE_RATE)
            runs = [(rate(lambda path=path: audio.load(path, 16000)), rate(lambda path=path: decode(path)))
                    for _ in range(RUNS)]  # fmt: skip
            loaded, decoded = np.median(runs, axis=0)
            numbers = [f"{loaded:.0f}", f"{decoded:.0f}", f"{loaded / decoded:.2f}"]
            rows.append([f"{suffix}, {channels} channels", *numbers])
    print_table("seconds of sound for a processor second", ["file", "load", "decoder alone", "ratio"], rows)
