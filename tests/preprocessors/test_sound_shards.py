"""Sounds in shards: the same mels as in files, whatever the parts; what is left out, and wrong use."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.config.base import MiniworldConfig, PreprocessConfig, Storage
from sonolume.config.part import Part
from sonolume.preprocessors import sound_shards, stages, text_audio
from sonolume.preprocessors.sound_shards import manifest, mels, prepare
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import read_manifest


@pytest.fixture
def config(tmp_path: Path) -> PreprocessConfig:
    return PreprocessConfig(
        processed_dir=str(tmp_path / "data"), frames=64, num_workers=1, valid_fraction=0.2, storage=Storage.shards,
        shard_rows=4, windows=2,
    )  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eleven clips of one or two windows, a silent one and one that is no sound."""
    folder = tmp_path / "raw sounds"
    folder.mkdir()
    for number in range(12):
        wave = 0.2 * np.random.default_rng(number).standard_normal(16000 + 1600 * number).astype(np.float32)
        soundfile.write(folder / f"clip {number}.wav", wave * (number != 5), 16000, subtype="FLOAT")
        (folder / f"clip {number}.txt").write_text(f"caption {number}\nanother {number}")
    (folder / "broken.wav").write_text("no sound")
    (folder / "broken.txt").write_text("a caption")
    return folder


def test_the_same_mels_as_in_files(config: PreprocessConfig, source: Path, tmp_path: Path) -> None:
    prepare(config, "mine", source)
    files = replace(config, processed_dir=str(tmp_path / "files"), storage=Storage.files)
    text_audio.prepare(files, "mine", source)
    for split in ("train", "valid"):
        shards = mels(config, "mine", split)
        rows = sound_shards.Rows(shards.column("row"), tmp_path / "data")
        expected = read_manifest(tmp_path / "files/mine" / f"{split}.json")
        assert sorted(rows, key=lambda row: row.uid) == sorted(expected, key=lambda row: row.uid)
        for row, mel in zip(rows, shards.column("mel"), strict=True):
            assert np.array_equal(mel.T, np.load(tmp_path / "files/mine/mel" / f"{row.uid}.npy"))
    assert len(mels(config, "mine", "train").shard_rows) > 1


def test_what_is_left_out_is_listed(config: PreprocessConfig, source: Path, tmp_path: Path) -> None:
    (source / "captionless.wav").write_bytes((source / "clip 0.wav").read_bytes())
    prepare(config, "mine", source)
    listed = [one for path in (tmp_path / "data/mine/shards").glob("*/*.done.json")
              for one in json.loads(path.read_text())["left_out"]]  # fmt: skip
    assert {one["uid"]: one["reason"] for one in listed} == {
        "captionless": "no caption", "clip 5": "silent", "broken": "unreadable"
    }  # fmt: skip


def test_parts_are_computed_in_any_order(config: PreprocessConfig, source: Path, tmp_path: Path) -> None:
    for index in (2, 0, 1):
        with stages.only(Part(index, 3), quiet=True) as report:
            prepare(config, "mine", source)
        assert bool(report.unfinished) == (index != 1)
    whole = replace(config, processed_dir=str(tmp_path / "whole"))
    prepare(whole, "mine", source)
    for path in (tmp_path / "whole").rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "data" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_shuffled_rows(config: PreprocessConfig, source: Path) -> None:
    prepare(config, "mine", source)
    prepare(replace(config, shuffle_seed=3), "shuffled", source)
    plain, shuffled = ([row.uid for row in manifest(config, name, "train")] for name in ("mine", "shuffled"))
    assert plain != shuffled and sorted(plain) == sorted(shuffled)


def test_scenes_of_the_miniature_world(config: PreprocessConfig) -> None:
    mini = replace(config, miniworld=MiniworldConfig(train_scenes=5, valid_scenes=2), windows=1)
    prepare(mini, "world", None)
    rows = manifest(mini, "world", "train")
    assert len(rows) == 5 and rows[3].scene and rows[1:3] == [rows[1], rows[2]]
    with pytest.raises(UserError, match="prepared with other settings: seed 1 .now 2."):
        prepare(replace(mini, miniworld=replace(mini.miniworld, seed=2)), "world", None)


def test_wrong_use(config: PreprocessConfig, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="raw: no such folder or manifest"):
        prepare(config, "mine", None)
    prepare(config, "mine", source)
    prepare(config, "mine", None)  # continues what is there
    with pytest.raises(UserError, match="shard_rows 4 .now 8.; remove .*mine, or choose another name"):
        prepare(replace(config, shard_rows=8), "mine", source)
    with pytest.raises(UserError, match="prepared with frames 64, not 32"):
        mels(replace(config, frames=32), "mine", "train")
    text_audio.prepare(replace(config, storage=Storage.files), "in files", source)
    with pytest.raises(UserError, match="was prepared with preprocess.storage=files"):
        prepare(config, "in files", source)
    for path in source.glob("*.wav"):
        path.write_text("no sound")
    with pytest.raises(UserError, match="train on .13 unreadable, the first: .*wav.*: mend .*, remove this"):
        prepare(config, "useless", source)
