"""How fast a bin answers when it does not need torch: pytest -m benchmark -s tests/benchmarks/test_startup.py"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINS = sorted((ROOT / "bins").glob("[a-z]*.py"))
LIMIT = 1.5  # seconds, median of RUNS
RUNS = 5


def median_time(script: Path, arguments: list[str], code: int) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert done.returncode == code, done.stderr
    print(f"{script.name} {' '.join(arguments[:1])}: median {statistics.median(times):.2f} s of {RUNS}")
    return statistics.median(times)


@pytest.mark.benchmark
@pytest.mark.parametrize("script", BINS, ids=lambda path: path.stem)
def test_help(script: Path) -> None:
    assert median_time(script, ["--help"], 0) < LIMIT


@pytest.mark.benchmark
@pytest.mark.parametrize(
    "script", [path for path in BINS if path.stem not in ("build", "convert")], ids=lambda path: path.stem
)
def test_a_config_error(script: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text('{"recipe": "tta/audioldm", "exp_name": "x", "dataset": [], "model": {}, "train": {"lrr": 1}}')
    extra = ["--text", "x"] if script.stem == "inference" else []
    assert median_time(script, ["--config", str(config), *extra], 2) < LIMIT
