"""The format of shards: columns, what is refused, and what a killed writer leaves."""

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonolume.utils import files, shards
from sonolume.utils.errors import UserError
from sonolume.utils.shards import Shards, ShardWriter, done_name, is_done, write_index

ROWS = (5, 0, 3)  # of each shard


def texts(shard: int, rows: int) -> list[Any]:
    return [{"text": f"é \u2028 {shard}", "n": row} for row in range(rows)]


def fixed(shard: int, rows: int) -> np.ndarray:
    return np.random.default_rng(shard).normal(size=(rows, 3, 2)).astype(np.float16)


def ragged(shard: int, rows: int) -> list[np.ndarray]:
    return [np.full((row % 3, 2), shard, np.uint16) for row in range(rows)]


def write(folder: Path, shard: int, rows: int) -> None:
    with ShardWriter(folder, shard) as writer:
        for row in range(rows):  # one by one, and empty appends in between
            writer.append("latents", fixed(shard, rows)[row : row + 1])
            writer.append("latents", fixed(shard, rows)[:0])
        writer.append_ragged("tokens", ragged(shard, rows))
        writer.append_json("caption", texts(shard, rows))
        writer.append("number", np.arange(rows))
        writer.leave_out(uid=f"x{shard}", reason="silent")
        writer.finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, rows in enumerate(ROWS):
        write(tmp_path / "features", number, rows)
    write_index(tmp_path / "features", len(ROWS), {"stage": "test"})
    return tmp_path / "features"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_rows_come_back_in_order_with_their_types(folder: Path) -> None:
    opened = Shards(folder)
    assert len(opened) == 8 and opened.shard_rows.tolist() == list(ROWS) and opened.made_by == [{"stage": "test"}]
    latents, tokens, caption = (opened.column(name) for name in ("latents", "tokens", "caption"))
    expected = np.concatenate([fixed(0, 5), fixed(2, 3)])
    np.testing.assert_array_equal(np.asarray(latents), expected)
    np.testing.assert_array_equal(latents[[7, 0]], expected[[7, 0]])
    np.testing.assert_array_equal(latents[2:6], expected[2:6])
    np.testing.assert_array_equal(latents[-1], expected[-1])
    assert (latents.shape, latents.dtype, latents[[]].shape) == ((8, 3, 2), np.float16, (0, 3, 2))
    for row, one in enumerate(ragged(0, 5) + ragged(2, 3)):
        np.testing.assert_array_equal(tokens[row], one)
        assert (tokens[row].dtype, tokens[row].shape) == (one.dtype, one.shape)
    assert tokens.shape == (8,) and [caption.json(row) for row in range(8)] == texts(0, 5) + texts(2, 3)
    assert [str(kind) for kind in opened.columns.values()] == [
        "float16, 3 x 2", "uint16, 2, ragged", "JSON", "int64, one value",
    ]  # fmt: skip
    assert not latents[0].flags.writeable


@pytest.mark.parametrize("row", [8, -9])
def test_a_row_outside_is_an_index_error(folder: Path, row: int) -> None:
    with pytest.raises(IndexError, match="of 8"):
        Shards(folder).column("latents")[row]


def test_files_are_plain_arrays(folder: Path) -> None:
    np.testing.assert_array_equal(np.load(folder / "00000.latents.npy"), fixed(0, 5))
    row = fixed(0, 5)[3].tobytes()
    content = (folder / "00000.latents.npy").read_bytes()
    start = len(content) - 5 * len(row)
    assert content[start + 3 * len(row) :][: len(row)] == row and start == 128


def test_a_ragged_column_of_empty_rows_only(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0) as writer:
        writer.append_ragged("tokens", [np.zeros((0, 4), np.int32)] * 3)
        writer.finish()
    write_index(tmp_path, 1, {})
    assert [row.shape for row in Shards(tmp_path).column("tokens")] == [(0, 4)] * 3


def test_no_rows_at_all(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0) as writer:
        writer.leave_out(uid="a", reason="silent")
        writer.finish()
    write_index(tmp_path, 1, {})
    opened = Shards(tmp_path)
    assert len(opened) == 0 and list(opened.column("latents")) == []
    assert json.loads((tmp_path / done_name(0)).read_text())["left_out"] == [{"uid": "a", "reason": "silent"}]


def test_several_folders_are_concatenated(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "more", 0, 2)
    write_index(tmp_path / "more", 1, {})
    opened = Shards(folder, tmp_path / "more")
    assert len(opened) == 10
    np.testing.assert_array_equal(opened.column("latents")[9], fixed(0, 2)[1])
    with ShardWriter(tmp_path / "other", 0) as writer:
        writer.append("latents", np.zeros((1, 3, 2), np.float32))
        writer.finish()
    write_index(tmp_path / "other", 1, {})
    with pytest.raises(UserError, match="other columns"):
        Shards(folder, tmp_path / "other")


def test_pickled_while_files_are_open(folder: Path) -> None:
    column = Shards(folder).column("tokens")
    first = column[7]
    assert len(pickle.dumps(column)) < 5000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(column))[7], first)


def test_more_files_than_are_kept_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_OPEN", 1)
    latents = Shards(folder).column("latents")
    for row in (0, 7, 1):
        np.testing.assert_array_equal(latents[row], np.concatenate([fixed(0, 5), fixed(2, 3)])[row])


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_to_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_type(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float32))


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[1:])


def pickled(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("change", [cut_off, cut_to_header, empty, other_type, fewer_rows, pickled, Path.unlink])
@pytest.mark.parametrize("column", ["latents", "tokens.ends"])
def test_a_wrong_file_is_named_with_the_remedy(folder: Path, change: Callable[[Path], None], column: str) -> None:
    change(folder / f"00002.{column}.npy")
    read = Shards(folder).column(column.partition(".")[0])
    read[0]
    remedy = "run `sonolume shards verify .* --remove`, and prepare again"
    with pytest.raises(UserError, match=rf"00002\.{column}\.npy: .*{remedy}") as found:
        read[5]
    assert "\n" not in str(found.value)


def change_index(folder: Path, **changes: Any) -> None:
    files.write_json(folder / "index.json", json.loads((folder / "index.json").read_text()) | changes)


def test_a_missing_newer_or_damaged_index(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.json: no such file: the features are not complete"):
        Shards(tmp_path)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        Shards(tmp_path / "nowhere")
    change_index(folder, form=2)
    with pytest.raises(UserError, match=r"index\.json: of form 2, this version reads form 1"):
        Shards(folder)
    cut_off(folder / "index.json")
    (folder / "index.json").write_text((folder / "index.json").read_text()[:30])
    with pytest.raises(UserError, match="not valid JSON"):
        Shards(folder)


def test_an_unknown_column(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'mels' \(there are: latents, tokens, caption, number\)"):
        Shards(folder).column("mels")


def test_columns_must_agree(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0) as writer:
        writer.append("a", np.zeros((2, 3)))
        with pytest.raises(ValueError, match=r"rows of float64 \(4,\) after rows of float64 \(3,\)"):
            writer.append("a", np.zeros((2, 4)))
        with pytest.raises(ValueError, match="after rows of"):
            writer.append("a", np.zeros((2, 3), np.float32))
        writer.append("b", np.zeros(1))
        with pytest.raises(ValueError, match="columns of different lengths"):
            writer.finish()
    assert names(tmp_path) == set()
    write(tmp_path, 0, 2)
    with ShardWriter(tmp_path, 1) as writer:
        writer.append("latents", np.zeros((1, 4), np.float16))
        writer.finish()
    with pytest.raises(UserError, match="shard 1 has other columns than shard 0"):
        write_index(tmp_path, 2, {})


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from sonolume.utils import files
from sonolume.utils.shards import ShardWriter
calls, replace = [], os.replace

def kill_at_a_file(source, target):
    calls.append(target)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = kill_at_a_file
with ShardWriter(Path(sys.argv[1]), 0) as writer:
    for column in "abc":
        writer.append(column, np.zeros(4))
    writer.finish()
"""


@pytest.mark.parametrize("call", [1, 4])
def test_a_killed_writer_leaves_nothing_that_is_taken_for_done(tmp_path: Path, call: int) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(call)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL and not is_done(tmp_path, 0)
    assert [name for name in names(tmp_path) if name.startswith(files.TEMPORARY)]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "99"], capture_output=True)
    assert done.returncode == 0
    assert names(tmp_path) == {"00000.a.npy", "00000.b.npy", "00000.c.npy", "00000.done.json"}


def test_a_killed_writer_of_other_content_leaves_the_shard_undone(tmp_path: Path) -> None:
    write(tmp_path, 0, 2)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "2"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL and not is_done(tmp_path, 0)


def test_writing_the_same_again_changes_no_byte(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write(folder, 0, ROWS[0])
    write_index(folder, len(ROWS), {"stage": "test"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_column_is_added_without_touching_others(folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    opened = Shards(folder)
    for number, rows in enumerate(ROWS):
        with ShardWriter(folder, number, add=True) as writer:
            writer.append("clap", np.full((rows, 4), number, np.float32))
            writer.finish()
    assert opened.column("latents")[7].shape == (3, 2)  # readers of the old index go on
    write_index(folder, len(ROWS), {"stage": "test"})
    opened = Shards(folder)
    assert list(opened.columns) == ["latents", "tokens", "caption", "number", "clap"]
    assert np.asarray(opened.column("clap"))[:, 0].tolist() == [0] * 5 + [2] * 3
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert json.loads((folder / done_name(0)).read_text())["left_out"] == [{"uid": "x0", "reason": "silent"}]


def test_an_added_column_must_fit(folder: Path) -> None:
    with ShardWriter(folder, 0, add=True) as writer:
        writer.append("clap", np.zeros((4, 2)))
        with pytest.raises(UserError, match=r"00000\.done\.json: has 5 rows, the new columns clap 4"):
            writer.finish()
    with ShardWriter(folder, 9, add=True) as writer, pytest.raises(UserError, match=r"00009\.done\.json: no such file"):
        writer.finish()
    assert not list(folder.glob("*.clap.npy"))
