"""The command shards: info, verify, export; uploading is in tests/utils/test_storage.py and test_s3.py."""

import gc
import io
import json
import re
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sonolume.bins import shards
from sonolume.utils import cli
from sonolume.utils.shards import Shards, ShardWriter, is_done, write_index

ROWS = (3, 0, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, rows in enumerate(ROWS):
        with ShardWriter(tmp_path / "features", number) as writer:
            writer.append("latents", np.random.default_rng(number).normal(size=(rows, 2, 3)).astype(np.float16))
            writer.append_ragged("tokens", [np.arange(row, dtype=np.uint16) for row in range(rows)])
            writer.append_json("caption", [f"é {number} {row}" for row in range(rows)])
            writer.append("length", np.arange(rows))
            writer.leave_out(uid=f"x{number}", reason="silent" if number else "too short")
            writer.finish()
    write_index(tmp_path / "features", len(ROWS), {"stage": "latents of train"})
    return tmp_path / "features"


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = cli.run(shards.main, [str(one) for one in argv])
    return code, *capsys.readouterr()


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info", folder)
    assert code == 0 and out.splitlines() == [
        f"{folder}: 5 rows in 3 shards",
        "  latents  float16, 2 x 3             0.0 MB",
        "  tokens   uint16, one value, ragged  0.0 MB",
        "  caption  JSON                       0.0 MB",
        "  length   int64, one value           0.0 MB",
        "left out: 2 rows: silent",
        "left out: 1 rows: too short",
        "made by: stage: latents of train",
    ]


def test_nothing_is_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", folder)[:2] == (0, f"{folder}: all 12 files are as they were written\n")


def test_every_damaged_file_is_named_and_its_shard_can_be_computed_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = folder / "00000.latents.npy"
    content = bytearray(latents.read_bytes())
    content[-1] ^= 1
    latents.write_bytes(content)
    (folder / "00002.tokens.npy").unlink()
    code, out, err = run(capsys, "verify", folder)
    assert code == 2 and err.count("\n") == 1 and "2 files are damaged or missing: run it with --remove" in err
    assert out.splitlines() == [
        f"{latents}: is cut off or changed: its SHA-256 is another", f"{folder}/00002.tokens.npy: is missing",
    ]  # fmt: skip
    assert [is_done(folder, number) for number in range(3)] == [True] * 3
    code, out, err = run(capsys, "verify", folder, "--remove")
    assert code == 0 and "2 files were damaged or missing: prepare again" in out and not err
    assert [is_done(folder, number) for number in range(3)] == [False, True, False]
    assert not (folder / "index.json").exists()  # else the next preparation would take it all for done
    code, _, err = run(capsys, "verify", folder)
    assert code == 2 and "not complete, there is no index.json" in err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("00001.done.json", "", r"00001\.done\.json: not valid JSON"),
        ("00001.done.json", "{}", r"00001\.done\.json: is damaged: it has no 'checksums'"),
        ("index.json", "{", r"index\.json: not valid JSON"),
        ("index.json", "{}", r"index\.json: is damaged: it has no 'shards'"),
        ("index.json", '{"form": 2, "shards": []}', r"index\.json: of form 2, this version reads form 1"),
    ],
)
def test_damaged_json_is_named(
    folder: Path, file: str, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / file).write_text(content)
    code, out, _ = run(capsys, "verify", folder, "--remove")
    assert code == 0 and out.count("\n") == 2
    assert re.search(message, out)
    assert not (folder / file).exists() and not (folder / "index.json").exists()


def test_an_index_of_other_files_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ShardWriter(folder, 0) as writer:
        writer.append("latents", np.ones((3, 2, 3), np.float16))
        writer.finish()
    code, out, _ = run(capsys, "verify", folder)
    assert code == 2 and out == f"{folder}/index.json: is of other files than 00000.done.json\n"


@pytest.mark.parametrize("argv", [["info"], ["verify"], ["export", "--output_dir", "x"]])
def test_a_folder_without_shards(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *argv, tmp_path)
    assert (code, out) == (2, "") and err.startswith(f"error: {tmp_path}") and err.count("\n") == 1
    assert "nowhere: no such folder" in run(capsys, argv[0], tmp_path / "nowhere", *argv[1:])[2]


def test_a_data_set_with_several_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(folder, folder / "cache/more")
    code, out, _ = run(capsys, "info", folder)
    assert code == 0 and out.count("5 rows in 3 shards") == 2
    assert run(capsys, "verify", folder)[1].count("all 12 files are as they were written") == 2
    (folder / "cache/more/00000.latents.npy").unlink()
    code, out, err = run(capsys, "verify", folder)
    assert code == 2 and f"{folder}/cache/more/00000.latents.npy: is missing" in out and "1 files are damaged" in err
    code, _, err = run(capsys, "export", folder, "--output_dir", folder / "tars")
    assert code == 2 and "contains several folders of shards, of which one is exported" in err


def test_a_link_is_read_at_its_address(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOLUME_SHARD_CACHE", str(tmp_path / "downloads"))
    shutil.copytree(folder, tmp_path / "set/cache/latents")
    (tmp_path / "set/shards.json").write_text('{"frames": 1}')
    assert run(capsys, "upload", tmp_path / "set", "memory://linked/x")[0] == 0
    assert run(capsys, "link", "memory://linked/x", tmp_path / "link")[0] == 0
    code, out, _ = run(capsys, "verify", tmp_path / "link")
    assert code == 0 and out == "memory://linked/x/cache/latents: all 12 files are as they were written\n"
    assert "left out: 2 rows: silent" in run(capsys, "info", tmp_path / "link")[1]
    code, _, err = run(capsys, "verify", tmp_path / "link", "--remove")
    assert code == 2 and "is for folders of this machine" in err
    assert run(capsys, "verify", "memory://linked/x")[0] == 0
    (tmp_path / "set/shards.json").write_text('{"frames": 2}')
    code, _, err = run(capsys, "upload", tmp_path / "set", "memory://linked/x")
    assert code == 2 and "memory://linked/x: another data set was uploaded there" in err


def test_tars_hold_every_row_and_the_same_bytes_each_time(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "export", folder, "--output_dir", tmp_path / "a")[0] == 0
    shutil.copytree(folder, tmp_path / "copy")
    assert run(capsys, "export", tmp_path / "copy", "--output_dir", tmp_path / "b")[0] == 0
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert written == ["00000.tar", "00002.tar"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in written)
    opened, row = Shards(folder), 0
    for name in written:
        with tarfile.open(tmp_path / "a" / name) as tar:
            members = tar.getmembers()
            assert all((one.mtime, one.uid, one.gid, one.uname) == (0, 0, 0, "") for one in members)
            content = {one.name: tar.extractfile(one).read() for one in members}  # type: ignore[union-attr]
        for key in dict.fromkeys(one.partition(".")[0] for one in content):
            assert key == f"{row:09d}"
            assert json.loads(content[f"{key}.json"]) == {"caption": opened.column("caption").json(row)}
            for column in ("latents", "tokens", "length"):
                found = np.load(io.BytesIO(content[f"{key}.{column}.npy"]))
                np.testing.assert_array_equal(found, opened.column(column)[row])
                assert found.dtype == opened.column(column).dtype
            row += 1
    assert row == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_tars_are_read_by_webdataset(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    webdataset = pytest.importorskip("webdataset")
    assert run(capsys, "export", folder, "--output_dir", tmp_path / "tars")[0] == 0
    tars = [str(path) for path in sorted((tmp_path / "tars").iterdir())]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    gc.collect()  # it leaves its files open
    opened = Shards(folder)
    assert [one["json"]["caption"] for one in samples] == [opened.column("caption").json(row) for row in range(5)]
    for row, one in enumerate(samples):
        np.testing.assert_array_equal(one["latents.npy"], opened.column("latents")[row])
        np.testing.assert_array_equal(one["tokens.npy"], opened.column("tokens")[row])


def test_parquet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run(capsys, "export", folder, "--output_dir", tmp_path / "x", "--format", "parquet")[0] == 0
    rows = [row for path in sorted((tmp_path / "x").iterdir()) for row in parquet.read_table(path).to_pylist()]
    opened = Shards(folder)
    assert len(rows) == 5
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(np.reshape(row["latents"], (2, 3)), opened.column("latents")[number])
        assert row["tokens"] == opened.column("tokens")[number].tolist()
        assert row["length"] == opened.column("length")[number]
        assert json.loads(row["caption"]) == opened.column("caption").json(number)


def test_parquet_without_pyarrow(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run(capsys, "export", folder, "--output_dir", tmp_path / "x", "--format", "parquet")
    assert code == 2 and err.startswith("error: --format parquet needs pyarrow: ") and "[parquet]" in err
    assert list((tmp_path / "x").iterdir()) == []


def test_upload(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SONOLUME_SHARD_CACHE", str(tmp_path / "cache"))
    code, out, _ = run(capsys, "upload", folder, "memory://test_upload/x")
    assert code == 0 and out.startswith("memory://test_upload/x: 12 files sent (0.0 MB), 0 were there already")
    assert run(capsys, "verify", "memory://test_upload/x")[0] == 0
    assert "5 rows in 3 shards" in run(capsys, "info", "memory://test_upload/x")[1]
    code, _, err = run(capsys, "verify", "memory://test_upload/x", "--remove")
    assert code == 2 and "--remove memory://test_upload/x: is for folders" in err
