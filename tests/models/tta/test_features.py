import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from sonolume.config.base import PreprocessConfig
from sonolume.models.tta.features import MelFiles, check_mel, read_rows
from sonolume.modules.mel import MelSettings
from sonolume.utils.errors import UserError

MEL = {"sample_rate": 22050, "n_fft": 2048, "win_size": 512, "hop_size": 128, "n_mel": 64, "fmin": 50.0, "fmax": 7600.0}


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


def test_a_data_set_may_be_named_twice(config: PreprocessConfig):
    mels = MelFiles(config, ["noise", "noise"], "train")
    assert mels.dataset_sizes == [10, 10] and sum(mels.shard_rows) == len(mels.rows) == 20


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


@pytest.mark.parametrize(("field", "stored"), [*MEL.items(), ("frames", 32), ("windows", 2)])
def test_features_of_other_settings_are_refused(field: str, stored: float, config: PreprocessConfig, tmp_path: Path):
    mine = asdict(MelSettings.of(config)) | {"frames": config.frames, "windows": config.windows}
    settings = tmp_path / "noise/mel/settings.json"
    settings.write_text(json.dumps(mine))
    assert len(read_rows(config, ["noise"], "train")) == 10
    settings.write_text(json.dumps(mine | {field: stored}))
    with pytest.raises(UserError, match=f"noise/mel: prepared with {field} {stored}, not {mine[field]}:"):
        read_rows(config, ["noise"], "train")


@pytest.mark.parametrize("field", MEL)
def test_a_model_of_other_mel_settings_is_refused(field: str):
    assert MEL.keys() == asdict(MelSettings()).keys()
    wanted, found = MelSettings(), {field: MEL[field]}
    check_mel(asdict(wanted), wanted, "model.vocoder x: a vocoder")
    check_mel({}, wanted, "model.vocoder x: a vocoder")  # unknown
    with pytest.raises(UserError, match=f"model.vocoder x.* {field} {MEL[field]}, not {getattr(wanted, field)}$"):
        check_mel(found, wanted, "model.vocoder x: a vocoder")
