import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.config.base import PreprocessConfig
from sonolume.preprocessors import audiocaps
from sonolume.preprocessors.text_audio import prepare
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("SONOLUME_TEST_DATA", ROOT.parent / "shared" / "data")) / "captions"
HEADER = "audiocap_id,youtube_id,start_time,caption\n"


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def sound(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.2 * np.random.default_rng(seed).standard_normal(8000)
    soundfile.write(path, wave.astype(np.float32), 16000)
    return path


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The three tables, without sounds. Ids as YouTube makes them: 11 letters, digits, - and _."""
    folder = tmp_path / "AudioCaps"
    rows = "\n".join(f'{n},-id_{n:07d},{10 * n},"A dog barks, {n} times"' for n in range(8))
    write(folder / "train.csv", HEADER + rows + "\n")
    for split, first in (("val", 100), ("test", 200)):
        rows = "\n".join(f"{first + n},{split:_<11},30,Wording {n}" for n in range(5))
        write(folder / f"{split}.csv", HEADER + rows + "\n")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "-id_0000003.wav",
        "Y-id_0000003.flac",
        "-id_0000003_30.wav",
        "Y-id_0000003_30.wav",
        "-id_0000003_30_40.wav",
        "-id_0000003_30000_40000.ogg",
        "-id_0000003_30.000.wav",
        "train/3.wav",
        "a/b/train/-id_0000003.mp3",
    ],
)
def test_a_clip_is_found_under_each_of_its_names(published: Path, name: str):
    path = sound(published / name)
    rows = audiocaps.read(published, "AudioCaps")
    assert len(rows) == 10
    there = [row for row in rows if row.audio and row.audio.exists()]
    assert [(row.uid, row.audio, row.captions, row.split) for row in there] == [
        ("-id_0000003_30", path, ["A dog barks, 3 times"], "train")
    ]


def test_five_captions_of_a_clip_are_one_row(published: Path):
    sound(published / "val" / "102.wav")
    (row,) = [row for row in audiocaps.read(published, "AudioCaps") if row.split == "valid"]
    assert (row.uid, row.audio) == ("val_________30", published / "val" / "102.wav")
    assert row.captions == [f"Wording {n}" for n in range(5)]


def test_of_two_files_the_one_in_the_folder_of_the_split_is_taken(published: Path):
    for split in ("a", "val", "train"):
        sound(published / split / "val________.wav")
    (row,) = [row for row in audiocaps.read(published, "AudioCaps") if row.split == "valid"]
    assert row.audio == published / "val" / "val________.wav"


def test_a_published_folder_is_prepared_and_missing_clips_are_counted(tmp_path: Path, published: Path, capsys):
    for number in (0, 2, 5):
        sound(published / "wav" / f"Y-id_{number:07d}.wav", number)
    sound(published / "wav" / "Yval________.wav")
    sound(published / "wav" / "Ytest_______.wav")
    config = PreprocessConfig(processed_dir=str(tmp_path / "data"), frames=32, num_workers=1)
    assert prepare(config, "AudioCaps", published) == {"train": 3, "valid": 1, "test": 1}
    folder = tmp_path / "data/AudioCaps"
    (row,) = read_manifest(folder / "test.json")
    assert (row.uid, len(row.captions), row.split) == ("test________30", 5, "test")
    assert (folder / "mel/test________30.npy").is_file()
    assert "5 of 10 clips are missing: listed in report.json" in capsys.readouterr().out
    refusals = json.loads((folder / "report.json").read_text())["refusals"]
    assert {item["reason"] for item in refusals} == {"missing"}
    assert refusals[0]["audio"].endswith("-id_0000001_10.wav")


def test_one_table_with_its_sounds_elsewhere(tmp_path: Path, published: Path):
    sound(tmp_path / "elsewhere" / "-id_0000003.wav")
    sound(tmp_path / "elsewhere" / "-id_0000004.wav")
    rows = audiocaps.read(published / "train.csv", "AudioCaps", tmp_path / "elsewhere")
    assert len(rows) == 8
    assert {row.split for row in rows} == {None}  # a part will be set aside to validate on
    message = r"AudioCaps: holds none of the 8 clips of train\.csv: expected \{youtube_id\}.*"
    with pytest.raises(UserError, match=message + r"such as -id_0000000_0\.wav, among 0 sound files.*--audio_dir"):
        audiocaps.read(published / "train.csv", "AudioCaps")


def test_a_clip_of_two_tables_is_held_out(published: Path):
    write(published / "train.csv", HEADER + "1,test_______,30,leaked\n")
    sound(published / "test_______.wav")
    assert [row.split for row in audiocaps.read(published, "AudioCaps")][0] == "test"


def test_tables_are_known_by_their_columns(tmp_path: Path, published: Path):
    assert [path.name for path in audiocaps.tables(published)] == ["test.csv", "train.csv", "val.csv"]
    assert audiocaps.tables(published.parent) == audiocaps.tables(published)
    assert audiocaps.tables(write(tmp_path / "m.csv", "Uid,Audio,Caption\n")) == []
    assert audiocaps.tables(write(tmp_path / "m.json", "[]")) == []
    write(published / "captions.csv", "file_name,caption\n")  # a manifest of one's own comes first
    assert audiocaps.tables(published) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,,30,x", r"train\.csv:2: no youtube_id"),
        ("1,abc,soon,x", r"train\.csv:2: start_time is 'soon', expected seconds"),
        ("1,abc,,x", r"train\.csv:2: start_time is '', expected seconds"),
        ("1,abc,30,x,y", r"train\.csv:2: more cells than columns"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path: Path, row: str, message: str):
    with pytest.raises(UserError, match=message):
        audiocaps.read(write(tmp_path / "train.csv", HEADER + row + "\n"), "AudioCaps")


def test_ids_never_lead_out_of_the_folder(tmp_path: Path):
    table = write(tmp_path / "in/train.csv", HEADER + "1,../../x,30,c\n2,abcdefghijk,0,c\n")
    sound(tmp_path / "in/abcdefghijk.wav")
    config = PreprocessConfig(processed_dir=str(tmp_path / "data"), frames=32, num_workers=1)
    assert prepare(config, "AudioCaps", table) == {"train": 1}
    report = json.loads((tmp_path / "data/AudioCaps/report.json").read_text())
    assert report["refused"] == {"unsafe Uid": 1}


@pytest.mark.parametrize(
    ("name", "split"),
    [("train", "train"), ("audiocaps_val", "valid"), ("AudioCaps-Test", "test"), ("x.valid", "valid"), ("all", None)],
)
def test_the_split_is_the_last_word_of_the_name(name: str, split: str | None):
    assert audiocaps.split_of(Path(f"{name}.csv")) == split


@pytest.mark.skipif(not REAL.is_dir(), reason="no recordings: set SONOLUME_TEST_DATA to their folder")
def test_the_real_tables(tmp_path: Path):
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.csv", (REAL / f"audiocaps_{split}.csv").read_text(encoding="utf-8"))
    sound(tmp_path / "audio" / "Yr1nicOVtvkQ.wav")
    rows = audiocaps.read(tmp_path, "AudioCaps")
    counts = {split: sum(row.split == split for row in rows) for split in ("train", "valid", "test")}
    assert counts == {"train": 3000, "valid": 200, "test": 200}
    assert {len(row.captions) for row in rows if row.split == "train"} == {1}
    assert max(len(row.captions) for row in rows if row.split == "test") == 5
    (row,) = [row for row in rows if row.audio and row.audio.exists()]
    assert (row.uid, row.captions) == ("r1nicOVtvkQ_130", ["A woman talks nearby as water pours"])
