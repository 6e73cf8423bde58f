from pathlib import Path

import pytest

from sonolume.utils import hub, paths
from sonolume.utils.errors import UserError


def test_folders_are_absolute_and_relative_to_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    (tmp_path / "ckpts" / "my model").mkdir(parents=True)
    assert hub.locate("ckpts/my model", "key") == str(tmp_path / "ckpts" / "my model")
    assert hub.locate(str(tmp_path / "ckpts"), "key") == str(tmp_path / "ckpts")
    assert hub.is_local(hub.locate("ckpts", "key"))


@pytest.mark.parametrize("source", ["google-t5/t5-base", "t5-base", "owner/name.with-all_marks"])
def test_hub_ids_stay(source: str):
    assert hub.locate(source, "key") == source
    assert not hub.is_local(source)


@pytest.mark.parametrize("source", ["a/b/c", "./t5", "../t5", "/nowhere/t5", "~/no such", "ö/ä/ü"])
def test_a_missing_folder_names_its_key(source: str):
    with pytest.raises(UserError, match="model.text_encoder .*: no such folder; train it"):
        hub.locate(source, "model.text_encoder", "train it")


def test_a_file_is_not_a_model(tmp_path: Path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(UserError, match="is a file, not the folder of a model"):
        hub.locate(str(tmp_path / "model.ckpt"), "--checkpoint")


def test_a_component_of_a_pipeline(tmp_path: Path):
    assert hub.inside(str(tmp_path), "vae") == str(tmp_path)
    (tmp_path / "model_index.json").touch()
    assert hub.inside(str(tmp_path), "vae") == str(tmp_path / "vae")
    assert hub.inside("owner/name", "vae") == "owner/name"
