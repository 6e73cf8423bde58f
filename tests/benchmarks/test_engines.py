"""Clips prepared in shards per second, by engine and number of processes.

pytest -m benchmark -s tests/benchmarks/test_engines.py

Wall seconds of whole commands, with their imports, since those decide what an engine is worth: run it on an idle
machine. Ray is measured where it is installed.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
SECONDS, SHARD_ROWS = 10, 250
COMMAND = [sys.executable, str(ROOT / "bins/preprocess.py"), "tta/autoencoderkl", "preprocess.storage=shards"]


@pytest.mark.benchmark
@pytest.mark.parametrize("clips", [500, 2000, 6000])
def test_engines(tmp_path: Path, clips: int, print_table: Callable[..., None]) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(SECONDS * 16000)
    soundfile.write(tmp_path / "clip.flac", wave, 16000, subtype="PCM_16")
    rows = "\n".join(f'{{"Uid": "{number}", "Audio": "clip.flac"}}' for number in range(clips))
    (tmp_path / "clips.jsonl").write_text(rows)
    ways = {"local": [[["preprocess.num_workers=1"]], [["preprocess.num_workers=2"]]]}
    ways["parts at once"] = [[["--part", "0/1"]], [["--part", "0/2"], ["--part", "1/2"]]]
    if find_spec("ray"):
        ways["ray"] = [[["preprocess.engine=ray", f"preprocess.num_workers={count}"]] for count in (1, 2)]
    table, found = [], []
    for engine, commands in ways.items():
        for number, together in enumerate(commands, 1):
            folder = tmp_path / f"{engine} {number}"
            before = time.perf_counter()
            run(together, tmp_path / "clips.jsonl", folder)
            seconds = time.perf_counter() - before
            table.append([engine, str(number), f"{seconds:.1f}", f"{clips / seconds:.0f}"])
            found.append({path.name: path.read_bytes() for path in folder.rglob("*.npy")})
    assert all(one == found[0] for one in found) and found[0]
    header = ["engine", "processes", "wall s", "clips a second"]
    print_table(f"{clips} clips of {SECONDS} s, flac at 16 kHz", header, table)


def run(together: list[list[str]], source: Path, folder: Path) -> None:
    """Run several commands at the same time."""
    common = [*COMMAND, "--input", str(source), f"preprocess.processed_dir={folder}",
              f"preprocess.shard_rows={SHARD_ROWS}"]  # fmt: skip
    processes = [subprocess.Popen([*common, *more], stdout=subprocess.DEVNULL) for more in together]
    assert not any(process.wait() for process in processes)
