"""Preprocessing that is killed or meets a full disk goes on from there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.config.base import PreprocessConfig
from sonolume.preprocessors.text_audio import prepare

SCRIPT = """
import os, signal, sys
from pathlib import Path
from sonolume.config.base import PreprocessConfig
from sonolume.preprocessors import parallel, text_audio
from sonolume.utils import cli

source, processed, workers, killed_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def watched(outcomes, **_):
    for number, outcome in enumerate(outcomes):
        if number == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield outcome

if __name__ == "__main__":
    parallel.processes_worth, parallel.tqdm = lambda *_: workers, watched  # however short the work
    parallel._cores, parallel.Workers.are_ready = lambda: workers, lambda _: True
    config = PreprocessConfig(processed_dir=processed, frames=64, windows=2, num_workers=workers)
    sys.exit(cli.run(lambda argv: text_audio.prepare(config, "mine", source, captions=False)))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Clips of 0.4 s (25 frames, 8 kB of features), the sixth of 1.5 s (64 + 29 frames, 20 kB + 9 kB)."""
    folder = tmp_path / "raw sounds"
    folder.mkdir()
    for number in range(9):
        wave = 0.2 * np.random.default_rng(number).standard_normal(24000 if number == 5 else 6400)
        soundfile.write(folder / f"clip {number}.wav", wave.astype(np.float32), 16000)
    return folder


def run_script(source: Path, processed: Path, workers: int, killed_at: int, limit: str = "unlimited"):
    command = ["sh", "-c", f'ulimit -f {limit}; exec "$@"', "sh", sys.executable, "-c", SCRIPT]
    command += [str(source), str(processed), str(workers), str(killed_at)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def finish(source: Path, processed: Path) -> dict[str, bytes]:
    """Run (again) to the end; the content of every file."""
    prepare(PreprocessConfig(processed_dir=str(processed), frames=64, windows=2, num_workers=1), "mine", source, False)
    paths = [path for path in processed.rglob("*") if path.is_file()]
    return {path.relative_to(processed).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path, source: Path, workers: int, capsys):
    whole = finish(source, tmp_path / "whole")
    assert run_script(source, tmp_path / "cut", workers, killed_at=3).returncode == -9
    assert not (tmp_path / "cut/mine/train.json").exists()
    (tmp_path / "cut/mine/mel/.tmp-0123456789ab.npy").write_bytes(b"half")
    (tmp_path / "cut/mine/.tmp-0123456789ab.json").write_bytes(b"half")
    capsys.readouterr()
    assert finish(source, tmp_path / "cut") == whole
    assert "clips were there already" in capsys.readouterr().out
    assert len(whole) == 9 + 1 + 4  # features; settings, train, valid, report


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path, source: Path):
    whole = finish(source, tmp_path / "whole")
    done = run_script(source, tmp_path / "full", 2, killed_at=-1, limit="32")  # blocks of 512 bytes
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "clip 5_w0.npy" in done.stderr and "ulimit -f" in done.stderr
    assert not list(tmp_path.rglob(".tmp-*"))
    assert 0 < len(list((tmp_path / "full/mine/mel").glob("*.npy"))) < 10
    assert finish(source, tmp_path / "full") == whole
