"""Stages: shards computed by one or several processes, in any order, with the same bytes; nothing half-done counts."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sonolume.config.part import Part
from sonolume.preprocessors import stages
from sonolume.preprocessors.stages import Progress, Stage, compute, in_threads, one_thread, sizes_of
from sonolume.utils.errors import UserError
from sonolume.utils.shards import ShardWriter

ROWS, SHARD_ROWS = 50, 8
SLOW = """
import sys, time
from pathlib import Path
from tests.preprocessors.test_stages import squares
from sonolume.preprocessors.stages import compute
compute(squares(pause=0.01), Path(sys.argv[1]))
"""


def squares(key: str = "squares", pause: float = 0.0, calls: list[int] | None = None) -> Stage:
    """Stage of the squares of row numbers, one at a time; every seventh row is left out."""

    def write(writer: ShardWriter, some: range, progress: Progress) -> None:
        if calls is not None:
            calls.append(writer.number)
        for row in some:
            time.sleep(pause)
            if row % 7 == 6:
                writer.leave_out(uid=str(row), reason="seventh")
            else:
                writer.append("square", np.array([row**2], np.int64))
                writer.append_ragged("digits", [np.array([int(digit) for digit in str(row**2)], np.uint8)])
            progress(1)

    return Stage("squares", key, lambda: sizes_of(ROWS, SHARD_ROWS), write)


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}  # fmt: skip


def test_all_shards_are_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []
    found = compute(squares(calls=calls), tmp_path).column("square")
    expected = [row**2 for row in range(ROWS) if row % 7 != 6]
    assert np.array_equal(np.asarray(found), expected) and calls == list(range(7))
    assert np.array_equal(np.asarray(compute(squares(calls=calls), tmp_path).column("square")), expected)
    assert calls == list(range(7))
    compute(squares("another key", calls=calls), tmp_path)
    assert calls == [*range(7), *range(7)]


@pytest.mark.parametrize("order", [range(5), (3, 0, 4, 4, 1, 2), (4, 3, 2, 1, 0)])
def test_parts_in_any_order_write_the_same_bytes(order: list[int], tmp_path: Path) -> None:
    compute(squares(), tmp_path / "whole")
    for number, index in enumerate(order):
        with stages.only(Part(index, 5)) as report:
            opened = compute(squares(), tmp_path / "parts")
        last = number == len(order) - 1
        assert bool(report.unfinished) is not last
        assert len(opened.shard_rows) == 7  # those of other parts have no rows yet
    assert checksums(tmp_path / "parts") == checksums(tmp_path / "whole")


def test_an_unfinished_part_shows_its_own_rows(tmp_path: Path) -> None:
    with stages.only(Part(1, 3)) as report:
        opened = compute(squares(), tmp_path)
    assert report.unfinished == {"squares": (2, 7)}
    assert opened.shard_rows.tolist() == [0, 7, 0, 0, 7, 0, 0]
    assert [int(opened.column("square")[row]) for row in opened.rows_of(4)] == [
        row**2 for row in range(32, 40) if row % 7 != 6
    ]


@pytest.mark.full
def test_a_killed_process_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """Killed at many moments, run again each time: in the end the same bytes, and no temporary file."""
    compute(squares(), tmp_path / "whole")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    started = time.monotonic()
    for moment in (0.02, 0.05, 0.08, 0.12, 0.16, 0.2):  # seconds after the first file, of half a second
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / "killed")], env=environment, cwd=root)
        while not list(tmp_path.glob("killed/*/*")) and process.poll() is None and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
    compute(squares(), tmp_path / "killed")
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "whole")


def test_two_processes_may_compute_the_same_part(tmp_path: Path) -> None:
    def work() -> None:
        with stages.only(Part(0, 2), quiet=True):
            compute(squares(pause=0.001), tmp_path / "both")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    compute(squares(), tmp_path / "both")
    compute(squares(), tmp_path / "whole")
    assert checksums(tmp_path / "both") == checksums(tmp_path / "whole")


def test_an_error_leaves_finished_shards_only(tmp_path: Path) -> None:
    def write(writer: ShardWriter, some: range, progress: Progress) -> None:
        writer.append("row", np.array(some))
        if writer.number == 1:
            raise UserError("the second shard")

    with pytest.raises(UserError, match="the second shard"):
        compute(Stage("broken", 0, lambda: [4, 4], write), tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("broken-*/*"))] == ["00000.done.json", "00000.row.npy"]


def test_results_of_threads_come_in_order() -> None:
    """Each call has one thread of torch, and one is not awaited before the next begins."""
    threads = torch.get_num_threads()
    together = threading.Barrier(3, timeout=30)

    def work(number: int) -> tuple[int, int]:
        if number < 3:
            together.wait()
        return number, torch.get_num_threads()

    torch.set_num_threads(3)
    try:
        with one_thread():
            assert list(in_threads(work, range(20))) == [(number, 1) for number in range(20)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("text", ["3", "3/", "/4", "a/4", "-1/4", "1/0", "1.5/4"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UserError, match=f"--part {text}: expected INDEX/COUNT"):
        Part.parse(text)


def test_parts_are_numbered_from_0() -> None:
    assert Part.parse("3/4") == Part(3, 4) and str(Part(3, 4)) == "3/4"
    with pytest.raises(UserError, match="the last one is 3/4"):
        Part.parse("4/4")
    assert [Part(1, 3).has(shard) for shard in range(5)] == [False, True, False, False, True]
