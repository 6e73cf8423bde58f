"""Reading prepared data sets for training."""

import json
from pathlib import Path

import pytest

from sonolume.config.audio_to_image import PairsConfig
from sonolume.preprocessors import prepared
from sonolume.utils.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> PairsConfig:
    """Two prepared data sets, "a" with two rows (one of them with a caption) and "b" with one."""
    for dataset, rows in {
        "a": [{"Uid": "1", "Caption": "x"}, {"Uid": "2"}],
        "b": [{"Uid": "3", "Caption": "y"}],
    }.items():
        (tmp_path / dataset).mkdir()
        for split in ("train", "valid"):
            (tmp_path / dataset / f"{split}.json").write_text(json.dumps(rows))
    return PairsConfig(processed_dir=str(tmp_path))


def test_rows_of_all_data_sets(config: PairsConfig, capsys: pytest.CaptureFixture[str]):
    rows = prepared.read_split(config, ["a", "b"], "train", lambda row: True, "features")
    assert [(row.dataset, row.uid) for row in rows] == [("a", "1"), ("a", "2"), ("b", "3")]
    rows = prepared.read_split(config, ["a", "b"], "train", lambda row: True, "features", captions=True)
    assert [row.uid for row in rows] == ["1", "3"]
    assert capsys.readouterr().out == ""


def test_incomplete_rows_are_counted_once(
    config: PairsConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert len(prepared.read_split(config, ["a"], "valid", lambda row: row.uid != "2", "a sound")) == 1
    assert "valid.json: left out 1 of 2 rows without a sound, such as 2" in capsys.readouterr().out
    monkeypatch.setenv("LOCAL_RANK", "1")  # another process of the same training
    prepared.read_split(config, ["a"], "valid", lambda row: row.uid != "2", "a sound")
    assert capsys.readouterr().out == ""


def test_nothing_to_train_on(config: PairsConfig):
    assert prepared.read_split(config, ["a"], "valid", lambda row: False, "features") == []
    with pytest.raises(UserError, match="a, b: no usable rows in train.json"):
        prepared.read_split(config, ["a", "b"], "train", lambda row: False, "features")
    with pytest.raises(UserError, match=r"c/train.json: no such file: .*run_preprocess.sh"):
        prepared.read_split(config, ["c"], "train", lambda row: True, "features")


def test_settings_of_a_folder(tmp_path: Path):
    path = tmp_path / "settings.json"
    with pytest.raises(UserError, match=r"settings.json: no such file.*remove it"):
        prepared.check_settings(path, {"rate": 1}, "remove it")
    path.write_text('{"rate": 1, "unused": 2}')
    prepared.check_settings(path, {"rate": 1}, "remove it")
    with pytest.raises(UserError, match=r"rate 1 \(now 2\), new None \(now 3\); remove it"):
        prepared.check_settings(path, {"rate": 2, "new": 3}, "remove it")
