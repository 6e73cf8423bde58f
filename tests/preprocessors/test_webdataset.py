"""WebDataset tars of sounds: packed, read by the package of that name, extracted, and what is refused."""

import gc
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sonolume.bins import shards
from sonolume.preprocessors import webdataset
from sonolume.utils import cli
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import read_manifest


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of three sounds, two with captions; nothing here decodes them."""
    (tmp_path / "sounds" / "a").mkdir(parents=True)
    for name in ("a/dog.barks", "a/bell", "silence"):
        (tmp_path / "sounds" / f"{name}.wav").write_bytes(name.encode())
    (tmp_path / "sounds" / "a" / "dog.barks.txt").write_text("A dog barks\nDer Hund bellt — laut\n")
    (tmp_path / "sounds" / "a" / "bell.txt").write_text("A bell")
    return tmp_path / "sounds"


def test_packed_and_extracted_sounds_are_the_same(sounds: Path, tmp_path: Path) -> None:
    rows = read_manifest(sounds)
    tars = list(webdataset.pack(rows, tmp_path / "tars", clips=2))
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar"]
    before = [tar.read_bytes() for tar in tars]
    assert [tar.read_bytes() for tar in webdataset.pack(rows, tmp_path / "again", clips=2)] == before
    assert webdataset.extract(tars, tmp_path / "out") == 3
    found = read_manifest(tmp_path / "out")
    assert [(row.uid, row.captions) for row in found] == [(row.uid, row.captions) for row in rows]
    assert [row.audio.read_bytes() for row in found if row.audio] == [row.uid.encode() for row in rows]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_packed_sounds_are_read_by_webdataset(sounds: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("webdataset")
    rows = read_manifest(sounds)
    (tar,) = webdataset.pack(rows, tmp_path / "tars")
    samples = list(package.WebDataset(str(tar), shardshuffle=False))
    gc.collect()  # it leaves its files open
    assert [one["wav"].decode() for one in samples] == [row.uid for row in rows]
    assert [json.loads(one["json"]).get("Captions", []) for one in samples] == [row.captions for row in rows]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_captions_of_others(tmp_path: Path, mode: str) -> None:
    """Captions in .txt, in .json under several names; samples without a sound and further files are left out."""
    members = {
        "x/1.flac": b"1", "x/1.txt": "a\nb é\n".encode(), "2.json": b'{"text": ["c", "d"], "path": "elsewhere"}',
        "2.mp3": b"2", "3.wav": b"3", "3.json": b'{"caption": "e", "text": "not this", "Label": "dog"}',
        "4.txt": b"no sound", "5.OGG": b"5", "5.cls": b"7",
    }  # fmt: skip
    tar = write_tar(tmp_path / "train-0.tar", members, mode)
    assert webdataset.extract([tar], tmp_path / "out") == 4
    found = {row.uid: row for row in read_manifest(tmp_path / "out")}
    captions = {uid: row.captions for uid, row in found.items()}
    assert captions == {"train-0/x/1": ["a", "b é"], "train-0/2": ["c", "d"], "train-0/3": ["e"], "train-0/5": []}
    assert found["train-0/3"].label == "dog"
    assert all(row.audio and row.audio.read_bytes() == uid[-1].encode() for uid, row in found.items())


def test_a_tar_is_extracted_once(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "0.tar", {"a.wav": b"a"})
    webdataset.extract([first], tmp_path / "out")
    before = (tmp_path / "out" / "0" / "a.wav").stat().st_mtime_ns
    second = write_tar(tmp_path / "1.tar", {"a.wav": b"a"})
    assert webdataset.extract([first, second], tmp_path / "out") == 2
    assert (tmp_path / "out" / "0" / "a.wav").stat().st_mtime_ns == before
    webdataset.extract([second], tmp_path / "out")  # the first stays in the manifest
    assert [row.uid for row in read_manifest(tmp_path / "out")] == ["0/a", "1/a"]


def test_a_folder_of_other_sounds_is_kept(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.wav": b"a"})
    (tmp_path / "mine/part").mkdir(parents=True)
    for name in ("mine/metadata.jsonl", "mine/part/metadata.jsonl"):
        (tmp_path / name).write_text(json.dumps({"file_name": f"{name}.wav"}))
    with pytest.raises(UserError, match="mine/metadata.jsonl: is of other sounds: choose another folder"):
        webdataset.extract([tar], tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["metadata.jsonl", "part"]


def cut_off(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:-15_000])


def no_tar(tar: Path) -> None:
    tar.write_bytes(b"x" * 10_000)


def outside(tar: Path) -> None:
    write_tar(tar, {"../../a.wav": b"a"})


def absolute(tar: Path) -> None:
    write_tar(tar, {"/a.wav": b"a"})


def without_sounds(tar: Path) -> None:
    write_tar(tar, {"a.txt": b"a"})


def bad_json(tar: Path) -> None:
    write_tar(tar, {"a.wav": b"a", "a.json": b"{"})


def json_list(tar: Path) -> None:
    write_tar(tar, {"a.wav": b"a", "a.json": b"[]"})


CHANGES = [cut_off, no_tar, outside, absolute, without_sounds, bad_json, json_list, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_tar_is_named_and_leaves_nothing(
    tmp_path: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tar = write_tar(tmp_path / "0.tar", {"a.wav": b"a" * 9_000, "b.wav": b"b" * 9_000})
    change(tar)
    code = cli.run(shards.main, ["extract", str(tar), "--output_dir", str(tmp_path / "out")])
    err = capsys.readouterr().err
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and (str(tar) in err or "0: a: " in err)
    assert not list((tmp_path / "out").rglob("*.wav")) and not (tmp_path / "a.wav").exists()


def test_two_tars_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    tars = [write_tar(folder / "0.tar", {"a.wav": b"a"}) for folder in (tmp_path, tmp_path / "b")]
    with pytest.raises(UserError, match="two tars are named 0"):
        webdataset.extract(tars, tmp_path / "out")


def test_the_command(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tars, out = tmp_path / "tars", tmp_path / "out"
    assert cli.run(shards.main, ["pack", str(sounds), "--output_dir", str(tars)]) == 0
    assert cli.run(shards.main, ["extract", str(tars / "00000.tar"), "--output_dir", str(out)]) == 0
    printed = [f"{tars}: 3 sounds in 1 tars", f"{out}: 3 sounds; prepare them with --input {out}"]
    assert capsys.readouterr().out.splitlines() == printed
