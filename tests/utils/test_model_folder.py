from pathlib import Path

import pytest

from sonolume.utils.model_folder import check_class, find_folder


def test_a_relative_folder_is_one_of_the_working_directory_or_of_the_base(in_folder: Path, tmp_path: Path):
    (in_folder / "owner" / "name").mkdir(parents=True)
    for source in ("owner/name", Path("owner/name"), "./owner/name", "owner/../owner/name/"):
        assert find_folder(source) == in_folder / "owner" / "name"
    (tmp_path / "base" / "owner" / "name").mkdir(parents=True)
    assert find_folder("owner/name", tmp_path / "base") == tmp_path / "base" / "owner" / "name"


@pytest.mark.parametrize("source", ["google-t5/t5-base", "t5-base", "owner/name.with-all_marks"])
def test_hub_ids_are_no_folders(in_folder: Path, source: str):
    assert find_folder(source) is None


@pytest.mark.parametrize(
    "source", ["a/b/c", "./t5", "../t5", "/nowhere/t5", "~/no such", "~nobody/t5", "owner/typo", "owner/" + "x" * 300]
)
def test_a_missing_folder_is_no_hub_id(in_folder: Path, source: str):
    (in_folder / "owner").mkdir()
    with pytest.raises(ValueError, match=": no such folder$"):
        find_folder(source)


def test_a_file_is_no_folder(in_folder: Path):
    (in_folder / "model.ckpt").touch()
    with pytest.raises(ValueError, match="model.ckpt: is a file"):
        find_folder("model.ckpt")


def test_the_class_of_a_folder(root: Path, tmp_path: Path):
    shipped = root / "pretrained" / "mini"
    check_class(shipped / "text_to_audio", "Other", "TextToAudioPipeline")
    check_class(shipped / "audiotoken", "a2i/audiotoken")
    with pytest.raises(ValueError, match="stable_diffusion: holds StableDiffusionPipeline, not TextToAudioPipeline"):
        check_class(shipped / "stable_diffusion", "TextToAudioPipeline")
    with pytest.raises(ValueError, match="X expected, but the folder holds no exported model"):
        check_class(tmp_path, "X")
    for content in (b"{", b"\xff\xff"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match="config.json: damaged"):
            check_class(tmp_path, "X")
