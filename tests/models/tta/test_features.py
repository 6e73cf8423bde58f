import json
import shutil
from pathlib import Path

import pytest

from sonolume.config.base import PreprocessConfig
from sonolume.models.tta.features import read_rows
from sonolume.utils.errors import UserError


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path) -> PreprocessConfig:
    shutil.copytree(tiny_data / "noise", tmp_path / "noise")
    return PreprocessConfig(processed_dir=str(tmp_path), frames=16)


def test_rows_without_features_are_left_out_and_counted(config: PreprocessConfig, tmp_path: Path, capsys):
    assert len(read_rows(config, ["noise"], "train")) == 10
    assert capsys.readouterr().out == ""
    (tmp_path / "noise/mel/train3.npy").unlink()
    assert "train3" not in {row.uid for row in read_rows(config, ["noise"], "train")}
    assert "train.json: left out 1 of 10 rows without features, such as" in capsys.readouterr().out


def test_a_uid_that_leads_out_of_the_folder_is_refused(config: PreprocessConfig, tmp_path: Path):
    (tmp_path / "noise/train.json").write_text(json.dumps([{"Uid": "../../etc/x", "Caption": "c"}]))
    with pytest.raises(UserError, match="etc/x"):
        read_rows(config, ["noise"], "train")


def test_nothing_to_train_on_is_an_error(config: PreprocessConfig, tmp_path: Path):
    shutil.rmtree(tmp_path / "noise/mel")
    with pytest.raises(UserError, match="no usable rows"):
        read_rows(config, ["noise"], "train")
    with pytest.raises(UserError, match="prepare the data first"):
        read_rows(config, ["other"], "train")
