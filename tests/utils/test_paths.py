import socket
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.utils.model_folder import HUB_ERRORS, hub_error


def test_root_is_the_checkout_wherever_we_stand(root: Path, in_folder: Path) -> None:
    assert paths.root() == paths.work_dir() == root and paths.is_checkout()


@pytest.fixture
def package(in_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with one shipped part."""
    folder = tmp_path / "site-packages" / "sonolume"
    (folder / "pretrained" / "mini" / "part").mkdir(parents=True)
    monkeypatch.setattr(paths, "__file__", str(folder / "utils" / "paths.py"))
    return folder


def test_an_installed_package_holds_the_shipped_parts_alone(package: Path, in_folder: Path) -> None:
    Path("pretrained/mini/part").mkdir(parents=True)
    Path("pretrained/mine").mkdir()
    assert paths.root() == package and paths.work_dir() == in_folder
    for shipped in ("pretrained/mini/part", "./pretrained/mini/part", "pretrained/mini"):
        assert paths.resolve(shipped) == package / shipped
    for users in ("pretrained/mine", "pretrained/new", "pretrained/mini/new", "ckpts/tta", "data", "mini/part"):
        assert paths.resolve(users) == in_folder / users
    assert paths.resolve("/abs/x") == Path("/abs/x")


def test_models_of_an_installed_package(package: Path, in_folder: Path) -> None:
    Path("mine").mkdir()
    assert paths.locate("pretrained/mini/part", "key") == str(package / "pretrained/mini/part")
    assert paths.locate("mine", "key") == str(in_folder / "mine")
    with pytest.raises(UserError, match="^model.beats pretrained/beats: no such folder"):  # no id of the hub
        paths.locate("pretrained/beats", "model.beats")


def test_pip_installs_an_extra_of_an_installed_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "python")
    assert paths.pip_install("video") == 'python -m pip install "sonolume[video]"'


def test_the_pip_of_this_python_installs_an_extra(root: Path, in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python")
    assert paths.pip_install("video") == f"'/opt/my python/bin/python' -m pip install -e \"{root}[video]\""


def test_resolve(root: Path, in_folder: Path) -> None:
    assert paths.resolve("data/x") == root / "data/x"
    assert paths.resolve("/abs/x") == Path("/abs/x")
    assert paths.resolve("~/x") == Path.home() / "x"


def test_a_home_that_nobody_has_names_its_key() -> None:
    assert paths.expand("~/x") == Path.home() / "x" and paths.expand("x~") == Path("x~")
    with pytest.raises(UserError, match="^--output_dir ~no_user/x: "):
        paths.expand("~no_user/x", "--output_dir")
    with pytest.raises(UserError, match="^log_dir ~no_user: "):
        paths.resolve("~no_user", "log_dir")


def test_a_folder_that_exists_or_can_be_made(in_folder: Path) -> None:
    Path("file").touch()
    for possible in (".", "new", "new/er", "x" * 255):
        paths.check_folder(Path(possible), "--output_dir")
    for impossible in ("file", "file/x/y", "/dev/null/x", "x" * 256, f"new/{'x' * 300}/y"):
        with pytest.raises(UserError, match=f"^--output_dir {impossible}: "):
            paths.check_folder(Path(impossible), "--output_dir")
    assert [path.name for path in in_folder.iterdir()] == ["file"]


def test_folders_are_absolute_and_relative_to_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    (tmp_path / "setup.py").touch()
    (tmp_path / "ckpts" / "my model").mkdir(parents=True)
    assert paths.locate("ckpts/my model", "key") == str(tmp_path / "ckpts" / "my model")
    assert paths.locate(str(tmp_path / "ckpts"), "key") == str(tmp_path / "ckpts")
    assert paths.is_local(paths.locate("ckpts", "key"))


@pytest.mark.parametrize("source", ["google-t5/t5-base", "t5-base", "owner/name.with-all_marks"])
def test_hub_ids_stay(source: str):
    assert paths.locate(source, "key") == source
    assert not paths.is_local(source)


@pytest.mark.parametrize("source", ["a/b/c", "./t5", "../t5", "/nowhere/t5", "~/no such", "ö/ä/ü"])
def test_a_missing_folder_names_its_key(source: str):
    with pytest.raises(UserError, match="model.text_encoder .*: no such folder; train it"):
        paths.locate(source, "model.text_encoder", "train it")


def test_a_file_is_not_a_model(tmp_path: Path):
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(UserError, match="is a file, not the folder of a model"):
        paths.locate(str(tmp_path / "model.ckpt"), "--checkpoint")


def test_a_component_of_a_pipeline(tmp_path: Path):
    assert paths.inside(str(tmp_path), "vae") == str(tmp_path)
    (tmp_path / "model_index.json").touch()
    assert paths.inside(str(tmp_path), "vae") == str(tmp_path / "vae")
    assert paths.inside("owner/name", "vae") == "owner/name"


def test_the_kind_of_an_exported_folder(root: Path, tmp_path: Path) -> None:
    assert paths.kind_of(root / "pretrained/mini/text_to_audio") == "TextToAudioPipeline"
    assert paths.kind_of(root / "pretrained/mini/audiotoken") == "a2i/audiotoken"
    assert paths.kind_of(tmp_path) == ""


def test_a_hub_that_does_not_answer(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Libraries wait for it without end; later ones find it switched off."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and sends nothing
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(paths, "HUB_TIMEOUT", 0.1)
        paths._try_hub.cache_clear()
        assert paths.locate("no/t5", "model.text_encoder") == "no/t5"
        assert paths.locate("no/clap", "--embedder") == "no/clap"
        assert capsys.readouterr().err.count("does not answer") == 1
        with pytest.raises(UserError, match="^model.text_encoder no/t5: .*: not downloaded before, and down"):
            paths.download("no/t5", "model.text_encoder")


def test_reasons_of_the_hub() -> None:
    def reason(error: OSError) -> str:
        return hub_error(error).removeprefix("neither a folder nor available from the hub: ")

    for name in ("RepositoryNotFoundError", "GatedRepoError"):
        assert reason(type(name, (OSError,), {})("404 Client Error.")) == HUB_ERRORS[name]
    assert reason(OSError("Got: ConnectError: [Errno 111] refused\nAn error happened")) == "[Errno 111] refused"
    assert reason(OSError()) == "OSError"
