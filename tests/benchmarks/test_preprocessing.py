"""Seconds of audio prepared per second of one core: pytest -m benchmark -s tests/benchmarks/test_preprocessing.py"""

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import text_audio
from sonolume.preprocessors.text_audio import Plan
from sonolume.utils.manifest import Row

CLIPS = 60
SECONDS = 10
SAMPLE_RATE = 44100
FRAMES = 624  # 9.984 s, the published setting


@pytest.mark.benchmark
@pytest.mark.parametrize("channels", [1, 2])
def test_one_worker(tmp_path: Path, channels: int) -> None:
    """Reading, resampling to 16 kHz, mel and writing; the cost of starting is left out by a first clip."""
    rows = []
    for number in range(CLIPS + 1):
        wave = 0.1 * np.random.default_rng(number).standard_normal((SECONDS * SAMPLE_RATE, channels))
        soundfile.write(tmp_path / f"{number}.wav", wave, SAMPLE_RATE, subtype="PCM_16")
        rows.append(Row("noise", str(number), tmp_path / f"{number}.wav"))
    plan = Plan(tmp_path / "mel", MelSettings(), FRAMES, windows=1)
    outcomes = text_audio.compute(rows[:1], plan, {})
    wall, processor = time.perf_counter(), time.process_time()
    outcomes += text_audio.compute(rows[1:], plan, {})
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    assert not any(outcome.left_out for outcome in outcomes)
    prepared = CLIPS * SECONDS
    print(f"\n{CLIPS} clips of {SECONDS} s, {SAMPLE_RATE} Hz x {channels}: {prepared / processor:.0f} s of audio")
    print(f"per second of one core, {prepared / wall:.0f} per second of wall clock")
