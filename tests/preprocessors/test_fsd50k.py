"""The layout of FSD50K; sounds are not opened."""

import json
import shutil
from pathlib import Path

import pytest

from sonolume.config.sound_text import TextField
from sonolume.preprocessors import fsd50k
from sonolume.utils.errors import UserError
from tests.fsd50k_tree import GUITAR, LABELS, VALID, fsd50k_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fsd50k_tree(tmp_path / "FSD50K", 0.01)


def read(source: Path, field: TextField = TextField.labels, media_dir: Path | None = None):
    assert fsd50k.is_published(source)
    return fsd50k.read(source, "FSD50K", field, media_dir)


def splits(source: Path) -> dict[str, str | None]:
    return {row.uid: row.split for row, _ in read(source)[0]}


def test_as_published(root: Path) -> None:
    entries, left_out = read(root)
    assert not left_out
    dev = {uid: "valid" if uid in VALID else "train" for uid in LABELS["dev"]}
    assert {row.uid: row.split for row, _ in entries} == dev | dict.fromkeys(LABELS["eval"], "test")
    row, columns = entries[0]
    assert (row.uid, row.audio) == ("64760", root / "FSD50K.dev_audio" / "64760.wav")
    assert columns == {"labels": GUITAR}


def test_titles_descriptions_and_tags_by_id(root: Path) -> None:
    for field in (TextField.title, TextField.description, TextField.tags):
        _, columns = read(root, field)[0][1]
        assert (columns["title"], columns["tags"]) == ("Take 1.wav", ["field-recording", "take_1"])


@pytest.mark.parametrize("inside", ["..", "FSD50K.ground_truth", "FSD50K.dev_audio"])
def test_folders_around_and_inside_the_data_set(root: Path, inside: str) -> None:
    assert splits((root / inside).resolve()) == splits(root)


def test_one_table(root: Path, tmp_path: Path) -> None:
    entries, left_out = read(root / "FSD50K.ground_truth" / "dev.csv")
    assert (len(entries), left_out) == (6, [])
    shutil.move(root / "FSD50K.eval_audio", tmp_path / "16 kHz")
    entries, left_out = read(root / "FSD50K.ground_truth" / "eval.csv", TextField.title, tmp_path / "16 kHz")
    assert not left_out and [row.split for row, _ in entries] == ["test"] * 3
    assert entries[0][0].audio == tmp_path / "16 kHz" / "37199.wav" and entries[0][1]["title"] == "Take 0.wav"


def test_folders_of_other_names(root: Path) -> None:
    (root / "FSD50K.ground_truth").rename(root / "labels")
    (root / "clips").mkdir()
    for name in ("dev", "eval"):
        (root / f"FSD50K.{name}_audio").rename(root / "clips" / name)
    row = read(root, TextField.tags)[0][0][0]
    assert row.audio == root / "clips" / "dev" / "64760.wav"


def test_parts_that_are_not_there(root: Path) -> None:
    shutil.rmtree(root / "FSD50K.eval_audio")
    (root / "FSD50K.metadata" / "eval_clips_info_FSD50K.json").unlink()  # not needed without its clips
    entries, _ = read(root, TextField.title)
    assert entries[-1][0].audio == root / "FSD50K.eval_audio" / "30.wav" and "title" not in entries[-1][1]
    shutil.rmtree(root / "FSD50K.metadata")
    assert len(read(root)[0]) == 9
    with pytest.raises(UserError, match=r"text_field=title needs FSD50K\.metadata/dev_clips_info_FSD50K\.json"):
        read(root, TextField.title)
    shutil.rmtree(root / "FSD50K.dev_audio")
    with pytest.raises(UserError, match=r"holds none of the 9 clips of dev\.csv and eval\.csv: expected 64760\.wav"):
        read(root)
    shutil.rmtree(root / "FSD50K.ground_truth")
    assert not fsd50k.is_published(root)


def test_sounds_without_their_tables(root: Path) -> None:
    shutil.rmtree(root / "FSD50K.ground_truth")
    with pytest.raises(UserError, match=r"without FSD50K\.ground_truth/dev\.csv or eval\.csv"):
        read(root)


def test_sounds_that_no_table_names(root: Path) -> None:
    (root / "FSD50K.ground_truth" / "eval.csv").unlink()
    entries, left_out = read(root)
    assert {one.uid: one.reason for one in left_out} == dict.fromkeys(LABELS["eval"], "no labels")
    assert len(entries) == 6 and left_out[0].detail == "not in dev.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'64760,"{GUITAR}",/m/1,train\n20,"Rain",/m/1,train', r"dev\.csv:1: no column 'fname': the first line must"),
        ("fname,labels,mids\n64760,Rain,/m/1", r"dev\.csv:1: no column 'split'.*fname,labels,mids,split"),
        ("fname,labels,mids,split\n64760,Rain,/m/1,test", r"dev\.csv:2: the split is 'test', expected train or val"),
        ("fname,labels,mids,split\n64760,Rain", r"dev\.csv:2: the split is None"),
        ("fname,labels,mids,split\n,Rain,/m/1,val", r"dev\.csv:2: no fname"),
        ("fname,labels,mids,split\n64760,Rain,Water,/m/1,val", r"dev\.csv:2: more cells than columns"),
        ("fname,labels,mids,split", r"dev\.csv: holds no rows"),
        ("", r"dev\.csv: holds no rows"),
    ],
)
def test_bad_tables(root: Path, content: str, message: str) -> None:
    (root / "FSD50K.ground_truth" / "dev.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read(root)


def test_columns_of_other_names_are_ignored(root: Path) -> None:
    path = root / "FSD50K.ground_truth" / "dev.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"index,{lines[0]}", *(f"7,{line}" for line in lines[1:])]))
    assert read(root)[0][0][1] == {"labels": GUITAR}


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "holds a list, not an object"), ("{", "not valid JSON"), ('{"64760": "x"}', "the entry of '64760' is no")],
)
def test_bad_metadata(root: Path, content: str, message: str) -> None:
    (root / "FSD50K.metadata" / "dev_clips_info_FSD50K.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read(root, TextField.title)


def test_other_data_sets_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("Uid,Audio,Caption\na,a.wav,rain\n")
    assert not fsd50k.is_published(tmp_path) and not fsd50k.is_published(tmp_path / "dev.csv")
    fsd50k_tree(tmp_path / "FSD50K", 0.01)
    (tmp_path / "metadata.json").write_text(json.dumps([{"Uid": "a"}]))
    assert not fsd50k.is_published(tmp_path)
