import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sonolume.models.evaluation.embedders.load import check, kinds, load, load_all
from sonolume.models.evaluation.embedders.pretrained import find_model
from sonolume.utils.errors import UserError

ModelFolder = Callable[[str], Path]


@pytest.mark.parametrize("spec", ["vggish:x", "clap", "", ":x", "CLAP:x"])
def test_an_unknown_kind_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(UserError, match="unknown kind") as error:
        load(spec)
    assert all(kind in str(error.value) for kind in kinds())


def test_the_nearest_kind_is_named() -> None:
    with pytest.raises(UserError, match="did you mean clap"):
        check("clapp:x")
    with pytest.raises(UserError, match="sound_judge_second"):
        load("mini:sound_juge")


def test_every_module_declares_what_it_loads() -> None:
    """The literals that are read without importing are those of the modules."""
    for kind, (name, form, pattern) in kinds().items():
        module = importlib.import_module(f"sonolume.models.evaluation.embedders.{name}")
        assert module.KINDS[kind] == (form, pattern) and callable(module.load)


@pytest.mark.parametrize(("spec", "form"), [("clap:", "ID_OR_FOLDER"), ("mel:x", "write mel:"), ("mini:", "sound")])
def test_a_source_too_few_or_too_many(spec: str, form: str) -> None:
    with pytest.raises(UserError, match=form):
        load(spec)


def test_bad_names_are_found_before_anything_slow_is_imported() -> None:
    code = (
        "import sys\nfrom sonolume.models.evaluation.embedders.load import check\n"
        "check('clap:x')\nprint(*[m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_sources() -> None:
    assert find_model("clap", "laion/clap") == ("laion/clap", None)
    assert find_model("clap", "laion/clap@v2") == ("laion/clap", "v2")
    with pytest.raises(UserError, match="embedder clap: ./gone: no such folder"):
        find_model("clap", "./gone")


def test_folders_are_relative_to_the_working_directory(in_folder: Path, model_folder: ModelFolder) -> None:
    shutil.copytree(model_folder("dac"), in_folder / "odd@name")
    assert load("dac:odd@name").name.startswith("dac:odd@name@")


def test_a_hub_id_that_is_not_at_hand_is_one_line() -> None:
    with pytest.raises(UserError, match="embedder dac:nobody/nothing cannot be loaded") as error:
        load("dac:nobody/nothing")  # tests run with HF_HUB_OFFLINE=1
    assert "\n" not in str(error.value)


def test_a_model_of_the_hub_is_named_by_its_commit(
    model_folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--me--tiny"
    for commit in ("0" * 40, "1" * 40):
        shutil.copytree(model_folder("hubert"), folder / "snapshots" / commit)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        assert load("hubert:me/tiny").name == f"hubert:me/tiny@{commit}"
    assert load(f"hubert:me/tiny@{'0' * 40}#1").name == f"hubert:me/tiny#1@{'0' * 40}"


def test_heads_that_are_not_needed_are_no_news(
    model_folder: ModelFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoConfig, HubertForCTC

    copy = shutil.copytree(model_folder("hubert"), tmp_path / "ctc")
    HubertForCTC(AutoConfig.from_pretrained(copy)).save_pretrained(copy)
    capfd.readouterr()
    assert load(f"hubert:{copy}").dim == 16
    assert "lm_head" not in "".join(capfd.readouterr())


def test_the_name_follows_the_content_not_the_place(model_folder: ModelFolder, tmp_path: Path) -> None:
    copy = shutil.copytree(model_folder("hubert"), tmp_path / "elsewhere" / "hubert")
    (copy / "README.md").write_text("words")
    name = load(f"hubert:{model_folder('hubert')}").name
    assert load(f"hubert:{copy}").name == name and str(tmp_path) not in name
    settings = copy / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"do_normalize": true', '"do_normalize": false'))
    assert load(f"hubert:{copy}").name != name


def test_a_model_of_another_type(model_folder: ModelFolder) -> None:
    with pytest.raises(UserError, match="holds a model of type clap, not clip"):
        load(f"clip:{model_folder('clap')}")


def test_a_model_without_all_its_weights(model_folder: ModelFolder, tmp_path: Path) -> None:
    """transformers would fill them with random numbers and go on."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(model_folder("hubert"), tmp_path / "half")
    weights = load_file(copy / "model.safetensors")
    dropped = next(name for name in weights if "final_layer_norm" in name)
    save_file({k: v for k, v in weights.items() if k != dropped}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 weights are missing, such as .*final_layer_norm"):
        load(f"hubert:{copy}")


def test_damaged_or_missing_parts(model_folder: ModelFolder, tmp_path: Path) -> None:
    copy = shutil.copytree(model_folder("hubert"), tmp_path / "a")
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be loaded"):
        load(f"hubert:{copy}")
    copy = shutil.copytree(model_folder("hubert"), tmp_path / "b")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="its Wav2Vec2FeatureExtractor cannot be loaded"):
        load(f"hubert:{copy}")


def test_two_of_one_name_cannot_be_told_apart_in_a_report(tmp_path: Path, root: Path) -> None:
    shutil.copytree(root / "pretrained/mini/sound_judge", tmp_path / "sound_judge")
    assert len(load_all(["mel:", "mel:", "mini:sound_judge"])) == 2
    with pytest.raises(UserError, match="two embedders are called mini:sound_judge in a report"):
        load_all(["mini:sound_judge", f"mini:{tmp_path / 'sound_judge'}"])
