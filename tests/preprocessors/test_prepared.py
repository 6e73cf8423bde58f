"""Reading prepared data sets for training."""

import json
from pathlib import Path

import pytest

from sonolume.config.audio_to_image import PairsConfig
from sonolume.config.base import DataConfig, MiniworldConfig
from sonolume.preprocessors import prepared
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


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


def outcomes(*splits: str) -> list[prepared.Outcome]:
    return [prepared.Outcome((Row("a", str(number), split=split),)) for number, split in enumerate(splits)]


def test_no_split_overwrites_a_report_or_another_split(config: PairsConfig, tmp_path: Path):
    splits = ["train", "report", "Train!", "a/b", "a_b", "A b", "pairs", "metadata", "test"]
    prepared.write(config, "a", outcomes(*splits), [], {})
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["examples"] == dict.fromkeys(splits, 1)
    assert report["files"]["test"] == "test.json" and report["files"]["report"] == "report-2.json"
    found = {split: json.loads((tmp_path / "a" / name).read_text()) for split, name in report["files"].items()}
    assert {split: rows[0]["Split"] for split, rows in found.items() if rows} == {split: split for split in splits}
    assert len({name.casefold() for name in report["files"].values()}) == len(report["files"]) == len(splits) + 1


def test_a_split_for_each_row(config: PairsConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Each row is written once, however many splits there are; and the message stays short."""
    written: list[int] = []
    monkeypatch.setattr(prepared.manifest, "write_manifest", lambda rows, path: written.append(len(rows)))

    class Counted(Row):
        compared = 0

        def __getattribute__(self, name: str) -> object:
            Counted.compared += name == "split"
            return super().__getattribute__(name)

    rows = [Counted("a", str(number), split="train" if not number else f"s{number}") for number in range(1000)]
    prepared.write(config, "a", [prepared.Outcome((row,)) for row in rows], [], {})
    assert sum(written) == 1000 and Counted.compared < 10_000
    assert len(capsys.readouterr().out) < 1000


def test_a_manifest_is_not_overwritten_by_its_own_data_set(config: PairsConfig, tmp_path: Path):
    with pytest.raises(UserError, match="train.json: would be overwritten"):
        prepared.check_input(config, "a", tmp_path / "a" / "train.json")
    prepared.check_input(config, "b", tmp_path / "a" / "train.json")
    prepared.check_input(config, "a", tmp_path / "a")


@pytest.mark.parametrize("in_section", [True, False])  # as of pairs, and of mels
def test_stored_data_of_other_settings(in_section: bool, tmp_path: Path):
    path, scenes = tmp_path / "settings.json", {"seed": 1, "kinds": [], "pairs": True}
    origin = {"input": scenes} if in_section else {"input": "miniworld"} | scenes
    path.write_text(json.dumps({"sample_rate": 16000} | origin))
    config = DataConfig(miniworld=MiniworldConfig(train_scenes=10))
    prepared.check_stored(config, path, {"sample_rate": 16000, "newer": 1})  # older data do not note it
    prepared.check_stored(config, tmp_path / "prepared elsewhere.json", {"sample_rate": 44100})
    with pytest.raises(UserError, match=r"sample_rate 16000, not 44100"):
        prepared.check_stored(config, path, {"sample_rate": 44100})
    config.miniworld.seed = 2
    with pytest.raises(UserError, match=r"seed 1, not 2"):
        prepared.check_stored(config, path, {"sample_rate": 16000})
    config.miniworld.train_scenes = 0  # recordings
    prepared.check_stored(config, path, {"sample_rate": 16000})
