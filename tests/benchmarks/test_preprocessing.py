"""Seconds of audio prepared per second of one core: pytest -m benchmark -s tests/benchmarks/test_preprocessing.py

The table of workers gives wall seconds, since starting processes is what it is about: run it on an idle machine.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import parallel, text_audio
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


@pytest.mark.benchmark
@pytest.mark.parametrize("clips", [40, 400, 2000])
def test_workers(tmp_path: Path, clips: int, monkeypatch: pytest.MonkeyPatch, print_table: Callable[..., None]) -> None:
    """No worker, two workers from the first clip on, and two that start when they pay."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(SECONDS * 16000)
    soundfile.write(tmp_path / "clip.wav", wave, 16000, subtype="PCM_16")
    rows = [Row("noise", str(number), tmp_path / "clip.wav") for number in range(clips)]
    used: list[int] = []
    decide, ready, hand_over = parallel.processes_worth, parallel.Workers.are_ready, parallel.Workers.map

    def counted(workers: parallel.Workers, items: Sequence[Any]) -> Iterator[Any]:
        used.append(workers.count)
        return hand_over(workers, items)

    monkeypatch.setattr(parallel.Workers, "map", counted)
    ways = {
        "none": (0, decide, ready), "always two": (2, lambda *_: 2, lambda _: True),
        "two when they pay": (2, decide, ready),
    }  # fmt: skip
    table, files = [], []
    text_audio.compute(rows[:1], Plan(tmp_path / "first", MelSettings(), FRAMES, windows=1), {})  # not counted
    for name, (num_workers, choose, wait) in ways.items():
        monkeypatch.setattr(parallel, "processes_worth", choose)
        monkeypatch.setattr(parallel.Workers, "are_ready", wait)
        used.clear()
        before = time.perf_counter()
        text_audio.compute(rows, Plan(tmp_path / name, MelSettings(), FRAMES, windows=1), {}, num_workers)
        table.append([name, f"{time.perf_counter() - before:.1f}", str(used[0] if used else 0)])
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).glob("*.npy")})
    assert files[0] == files[1] == files[2] and len(files[0]) == clips
    print_table(f"{clips} clips of {SECONDS} s at 16 kHz", ["workers", "wall s", "started"], table)
