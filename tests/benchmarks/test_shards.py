"""Rows a second from the page cache, and opening indices of up to 100 million rows.

pytest -m benchmark -s tests/benchmarks/test_shards.py
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonolume.utils import shards
from sonolume.utils.shards import Shards, ShardWriter, write_index

SHARDS, SHARD_ROWS = 16, 2000
READS = 100_000
PrintTable = Callable[[str, list[str], list[list[str]]], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents of 10 s clips, half precision: 3 kB a row; token numbers; captions."""
    folder, random = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for number in range(SHARDS):
        with ShardWriter(folder, number) as writer:
            writer.append("latents", random.normal(size=(SHARD_ROWS, 8, 5, 39)).astype(np.float16))
            lengths = random.integers(5, 40, SHARD_ROWS)
            writer.append_ragged("tokens", [np.arange(length, dtype=np.uint16) for length in lengths])
            writer.append_json("caption", [{"caption": "a dog barks", "uid": f"{row:08d}"} for row in lengths.tolist()])
            writer.finish()
    write_index(folder, SHARDS, {})
    return folder


def rows_per_second(read: Callable[[int], Any], rows: np.ndarray) -> float:
    """Of the fastest of three runs; the first has read all files into the page cache."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        for row in rows.tolist():
            read(row)
        seconds.append(time.perf_counter() - start)
    return len(rows) / min(seconds)


@pytest.mark.benchmark
def test_rows_per_second(folder: Path, tmp_path: Path, print_table: PrintTable) -> None:
    opened = Shards(folder)
    latents, tokens, caption = (opened.column(name) for name in ("latents", "tokens", "caption"))
    np.save(tmp_path / "whole.npy", np.asarray(latents))
    whole = np.load(tmp_path / "whole.npy", mmap_mode="r")
    rows = np.random.default_rng(1).integers(0, len(opened), READS)
    batches = np.array_split(rows, READS // 32)

    def copies(of: Any) -> Callable[[int], Any]:
        return lambda row: of[row].copy()

    found = {
        "one np.memmap, copied": rows_per_second(copies(whole), rows),
        "latents, mapped": rows_per_second(latents.__getitem__, rows),
        "latents, copied": rows_per_second(copies(latents), rows),
        "latents, batches of 32": 32 * rows_per_second(lambda one: latents[batches[one]], np.arange(len(batches))),
        "tokens (ragged), copied": rows_per_second(copies(tokens), rows),
        "caption (JSON)": rows_per_second(caption.json, rows),
    }
    base = found["one np.memmap, copied"]
    table = [[name, f"{count:,.0f}", f"{count / base:.2f}"] for name, count in found.items()]
    print_table(f"random rows of {len(opened):,}, one process", ["", "rows/s", "ratio"], table)


OPEN = """
import pickle, re, sys, time
import numpy, psutil
from pathlib import Path
from sonolume.utils.shards import Shards
before, start = psutil.Process().memory_info().rss, time.perf_counter()
opened = Shards(sys.argv[1])
column = opened.column("latents")
seconds = time.perf_counter() - start
after = psutil.Process().memory_info().rss
peak = 1024 * int(re.search("VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
print(len(opened), seconds, (after - before) / 1e6, (peak - before) / 1e6, len(pickle.dumps(column)) / 1e6)
"""


def write_large_index(folder: Path, rows: int) -> None:
    """An index without its files, with six checksums a shard."""
    types = {
        "latents": {"dtype": "<f2", "shape": [8, 5, 39], "ragged": False},
        "tokens": {"dtype": "<u2", "shape": [], "ragged": True},
        "caption": {"dtype": "|S1", "shape": [], "ragged": True},
        "clap": {"dtype": "<f2", "shape": [512], "ragged": False},
    }
    names = ["latents", "tokens", "tokens.ends", "caption", "caption.ends", "clap"]
    random, count = np.random.default_rng(0), min(rows, shards.SHARD_ROWS)
    folder.mkdir()
    for number in range(rows // count):
        checksums = {name: random.bytes(32).hex() for name in names}
        done = {"rows": count, "columns": types, "checksums": checksums, "left_out": []}
        (folder / shards.done_name(number)).write_text(json.dumps(done))
    write_index(folder, rows // count, {})


@pytest.mark.benchmark
def test_opening_grows_with_shards_not_rows(tmp_path: Path, print_table: PrintTable) -> None:
    table, measured = [], []
    for rows in (1_000, 1_000_000, 100_000_000):
        start = time.perf_counter()
        write_large_index(tmp_path / str(rows), rows)
        size = (tmp_path / str(rows) / shards.INDEX_FILE).stat().st_size
        writing = time.perf_counter() - start
        command = [sys.executable, "-c", OPEN, str(tmp_path / str(rows))]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
        length, seconds, kept, peak, pickled = min((tuple(map(float, run)) for run in runs), key=lambda run: run[1])
        assert length == rows
        measured.append((rows, seconds, max(kept, 0.1)))
        table.append([f"{rows:,}", f"{writing:.2f}", f"{size / 1e6:.3f}", f"{1000 * seconds:.1f}", f"{kept:.1f}",
                      f"{peak:.1f}", f"{pickled:.3f}"])  # fmt: skip
    header = ["rows", "written in s", "index MB", "opened in ms", "kept MB", "peak MB", "pickled MB"]
    print_table("index of shards of 10,000 rows, four columns", header, table)
    for (less, *low), (more, *high) in zip(measured, measured[1:], strict=False):
        time_, memory = (math.log(b / a) / math.log(more / less) for a, b in zip(low, high, strict=True))
        print(f"{less:,} to {more:,} rows: time grows by rows^{time_:.2f}, memory by rows^{memory:.2f}")
