"""The script gpu.py in its smallest form, on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = [sys.executable, str(Path(__file__).with_name("gpu.py"))]

pytestmark = pytest.mark.full


def test_a_table_and_a_json(tmp_path: Path):
    """A recipe that runs, traced too, and one that gets no time."""
    small = ["--device", "cpu", "--size", "mini", "--batches", "1", "--modes", "plain", "eager"]
    flags = [*small, "--recipes", "tta/autoencoderkl", "--output_dir", str(tmp_path)]
    done = subprocess.run([*SCRIPT, *flags], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert set(content["floors"]) == {"bfloat16", "float32", "bandwidth"}
    rows = [(row["what"], row["dtype"], row["mode"]) for row in content["rows"]]
    types = ("bfloat16", "float32")
    whats = (("generate", "plain"), ("train", "plain"), ("generate", "eager"))
    assert rows == [(what, kind, mode) for what, mode in whats for kind in types]
    for row in content["rows"]:
        assert not row["note"] and row["seconds"] > 0 and row["memory"] > 0
        assert row["per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert 0 < row["compute"] < 1 and row["bandwidth"] > 0
    assert (tmp_path / "gpu.md").read_text().count("| tta/autoencoderkl |") == len(rows)


def test_a_recipe_without_time_does_not_end_the_others(tmp_path: Path):
    flags = ["--device", "cpu", "--size", "mini", "--recipes", "tta/hifigan", "--seconds", "1"]
    done = subprocess.run([*SCRIPT, *flags, "--output_dir", str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert rows and ("no time left" in rows[-1]["note"] or "rows not reached in time" in rows[-1]["note"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_so_in_a_line(tmp_path: Path):
    done = subprocess.run([*SCRIPT, "--output_dir", str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and done.stderr.startswith("error: torch.cuda.is_available() is false")
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
