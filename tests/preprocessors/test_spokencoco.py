import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from sonolume.config.speech_pictures import SpeechPicturesConfig
from sonolume.preprocessors import speech_pictures
from sonolume.preprocessors.spokencoco import read, tables
from sonolume.utils.errors import UserError
from tests.flickr8k_tree import photograph, speech


def entry(split: str, number: int, recordings: int = 2) -> dict[str, Any]:
    captions = [{"text": f"A DOG {part}", "speaker": f"m{part}", "uttid": f"m{part}-{split}_{number}", "wav":
                 f"wavs/{split}/0/m{part}-{split}_{number}.wav"} for part in range(recordings)]  # fmt: skip
    return {"image": f"{split}2014/COCO_{split}2014_{number:012}.jpg", "captions": captions}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two pictures of each split with two recordings each; the pictures lie next to the folder, as often advised."""
    folder = tmp_path / "coco" / "SpokenCOCO"
    for split in ("train", "val"):
        entries = [entry(split, number) for number in (1, 2)]
        for one in entries:
            photograph(folder.parent / one["image"])
            for caption in one["captions"]:
                (folder / caption["wav"]).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / caption["wav"], speech(), 16000)
        save(folder / f"SpokenCOCO_{split}.json", entries)
    return folder


def save(path: Path, entries: list[dict[str, Any]], **more: str) -> Path:
    path.write_text(json.dumps({"image_base_path": "", "audio_base_path": "", "data": entries} | more))
    return path


def test_both_files(source: Path) -> None:
    for place in (source, source.parent):
        assert [path.name for path in tables(place)] == ["SpokenCOCO_train.json", "SpokenCOCO_val.json"]
        rows = read(place, "mine")
        assert [row.split for row in rows] == ["train"] * 4 + ["valid"] * 4
        assert all(row.audio and row.audio.is_file() and row.image and row.image.is_file() for row in rows)
    row = rows[1]
    assert (row.uid, row.captions, row.speaker) == ("m1-train_1", ["A DOG 1"], "m1")
    assert row.image == rows[0].image and row.image and row.image.name == "COCO_train2014_000000000001.jpg"


def test_prepared(tmp_path: Path, source: Path) -> None:
    (source / entry("train", 1)["captions"][0]["wav"]).unlink()
    (source.parent / entry("val", 2)["image"]).unlink()
    config = SpeechPicturesConfig(processed_dir=str(tmp_path / "data"), num_workers=0)
    assert speech_pictures.prepare(config, "mine", source) == {"train": 3, "valid": 2}  # it has a folder wavs/, too
    report = json.loads((tmp_path / "data" / "mine" / "report.json").read_text())
    assert report["refused"] == {"missing": 1, "missing picture": 2} and report["pictures"] == 3
    (row, *_) = speech_pictures.read_split(config, ["mine"], "train")
    assert row.image and row.image.name == "COCO_train2014_000000000001"


def test_one_file_and_other_versions(tmp_path: Path, source: Path) -> None:
    rows = read(source / "SpokenCOCO_val.json", "mine")
    assert {row.split for row in rows} == {"valid"}
    unrolled = [{"image": one["image"], "caption": caption}
                for one in (entry("val", 1), entry("val", 2)) for caption in one["captions"]]  # fmt: skip
    for split in ("val", "test"):
        save(source / f"SpokenCOCO_{split}_unrolled_karpathy.json", unrolled)
    assert len(tables(source)) == 2  # the published ones
    test = read(source / "SpokenCOCO_test_unrolled_karpathy.json", "mine")
    assert [(row.uid, row.captions, row.image) for row in test] == [(row.uid, row.captions, row.image) for row in rows]
    assert {row.split for row in test} == {"test"}
    for name in ("SpokenCOCO_train.json", "SpokenCOCO_val.json"):
        (source / name).unlink()
    assert [path.name for path in tables(source)] == [f"SpokenCOCO_{split}_unrolled_karpathy.json"
                                                      for split in ("val", "test")]  # fmt: skip
    alone = save(tmp_path / "speech.json", [entry("val", 1)], audio_base_path=str(source), image_base_path="coco")
    assert all(row.split is None and row.audio and row.audio.is_file() for row in read(alone, "mine"))


def test_files_that_are_not_there(tmp_path: Path, source: Path) -> None:
    (source / entry("val", 1)["captions"][0]["wav"]).unlink()
    rows = read(source, "mine")
    assert [row.uid for row in rows if not (row.audio and row.audio.is_file())] == ["m0-val_1"]
    moved = tmp_path / "pictures"
    moved.mkdir()
    for split in ("train2014", "val2014"):
        (source.parent / split).rename(moved / split)
    with pytest.raises(UserError, match=r"none of its 4 pictures is there, such as .*/COCO_train2014_0*1\.jpg: name"):
        read(source, "mine")
    assert all(row.image and row.image.is_file() for row in read(source, "mine", moved))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, 'an object without the list "data"'),
        ({"data": [3]}, r'data\[0\]: "image" is None, expected a file'),
        ({"data": [{"image": "a.jpg"}]}, r'data\[0\]: no list "captions"'),
        ({"data": [{"image": "a.jpg", "captions": ["A dog"]}]}, r'data\[0\]: "wav" is None'),
        ({"data": []}, "none of its 0 recordings is there"),
    ],
)
def test_json_of_another_shape(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = tmp_path / "speech.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read(path, "mine")


def test_a_manifest_is_not_taken_for_it(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps([{"Uid": "a", "Audio": "a.wav", "Image": "a.jpg"}]))
    (source / "metadata.json").write_text("[]")
    assert tables(path) == tables(source) == tables(tmp_path) == []
