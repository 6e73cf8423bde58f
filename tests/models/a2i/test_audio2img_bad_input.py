"""audio2img's commands on folders, settings, data and sounds that do not serve: one clear line each, exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sonolume.bins import inference, preprocess, train
from sonolume.utils import cli

RATE = 16000


@pytest.fixture(scope="module")
def parts(
    tiny_stable_diffusion: Path, build_stable_diffusion: Callable[..., Path], make_wav2vec2_bert: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """Folders that are damaged or do not fit."""
    folder = tmp_path_factory.mktemp("parts")
    make_wav2vec2_bert(folder / "adapter", add_adapter=True, num_adapter_layers=2, output_hidden_size=32)
    make_wav2vec2_bert(folder / "wide_adapter", add_adapter=True, num_adapter_layers=2, output_hidden_size=48)
    whole = make_wav2vec2_bert(folder / "whole")
    weights = Path(shutil.copytree(whole, folder / "cut")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for name, settings in (("more_layers", {"num_hidden_layers": 4}), ("wrong_type", {"hidden_size": "x"})):
        path = Path(shutil.copytree(whole, folder / name)) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    (Path(shutil.copytree(whole, folder / "half_json")) / "config.json").write_text('{"model_type": ')
    (Path(shutil.copytree(whole, folder / "no_weights")) / "model.safetensors").unlink()
    shutil.copytree(tiny_stable_diffusion / "text_encoder", folder / "clip")
    shutil.rmtree(Path(shutil.copytree(tiny_stable_diffusion, folder / "no_text_encoder")) / "text_encoder")
    build_stable_diffusion(folder / "wide", width=48)
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preprocess.input_length=8"], "input_length 8 and the adapter make 100 states, the text encoder of"),
        (["model.adapter_kernel_size=64"], "make 0 states, the text encoder of"),
        (["model.freeze_layers=4"], "model.freeze_layers 4: the encoder has 3 layers"),
        (["model.stable_diffusion='{}/no_text_encoder'"], "no_text_encoder: its text_encoder is missing"),
        (["model.stable_diffusion='{}/clip'"], "clip: holds CLIPTextModel, not StableDiffusionPipeline"),
        (["model.stable_diffusion=nowhere/at/all"], "model.stable_diffusion nowhere/at/all"),
        (["model.wav2vec2_bert=nowhere/at/all"], "model.wav2vec2_bert nowhere/at/all"),
        (["model.wav2vec2_bert='{}/clip'"], "clip: holds CLIPTextModel, not Wav2Vec2BertModel"),
        (["model.wav2vec2_bert='{}/wide'"], "wide: holds StableDiffusionPipeline, not Wav2Vec2BertModel"),
        (["model.wav2vec2_bert='{}/cut'"], "model.safetensors: cut or damaged"),
        (["model.wav2vec2_bert='{}/half_json'"], "half_json/config.json"),
        (["model.wav2vec2_bert='{}/wrong_type'"], "Field 'hidden_size' expected int, got str"),
        (["model.wav2vec2_bert='{}/no_weights'"], "model.safetensors"),
        (["model.wav2vec2_bert='{}/more_layers'"], "weights are missing, such as encoder.layers.3."),
        (["model.wav2vec2_bert='{}/wide_adapter'"], "its adapter has output_hidden_size 48, not 32"),
        (["model.wav2vec2_bert='{}/adapter'", "model.num_adapter_layers=1"], "has num_adapter_layers 2, not 1"),
        (["model.wav2vec2_bert='{}/adapter'", "model.num_adapter_layers=3"], "has num_adapter_layers 2, not 3"),
        (["model.wav2vec2_bert='{}/adapter'", "model.adapter_kernel_size=5"], "has adapter_kernel_size 3, not 5"),
        (["model.wav2vec2_bert='{}/adapter'", "model.adapter_stride=3"], "has adapter_stride 2, not 3"),
    ],
)  # fmt: skip
def test_training_on_parts_that_do_not_fit(
    write_audio2img: Callable[..., Path], refused: Callable[..., str], parts: Path, overrides: list[str], message: str
) -> None:
    argv = ["--config", str(write_audio2img()), *[one.format(parts) for one in overrides]]
    assert message in refused(train.main, *argv)


def data_of(write: Callable[..., Path], noise: Path, tmp_path: Path, **columns: object) -> tuple[Path, Path]:
    """A config and the folder of its data, whose manifests a test may change."""
    folder = Path(shutil.copytree(noise / "noise", tmp_path / "data/noise", ignore=shutil.ignore_patterns("cache")))
    for split in ("train", "valid"):
        rows = json.loads((folder / f"{split}.json").read_text())
        (folder / f"{split}.json").write_text(json.dumps([row | columns for row in rows]))
    return write(preprocess={"processed_dir": str(tmp_path / "data")}, train={"max_steps": 2}), folder


@pytest.mark.filterwarnings("ignore:Total length of .DataLoader. across ranks is zero")
def test_an_empty_validation_split(
    write_audio2img: Callable[..., Path], noise_with_texts: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    """A manifest without rows is refused; if no row is usable, there is no best checkpoint."""
    path, folder = data_of(write_audio2img, noise_with_texts, tmp_path)
    (folder / "valid.json").write_text("[]")
    assert "valid.json: holds no rows" in refused(train.main, "--config", str(path))
    rows = json.loads((noise_with_texts / "noise/valid.json").read_text())
    (folder / "valid.json").write_text(json.dumps([row | {"Caption": None} for row in rows]))
    assert cli.run(train.main, ["--config", str(path)]) == 0
    assert [file.name for file in (tmp_path / "run/checkpoints").iterdir()] == ["last.ckpt"]


def test_sounds_without_texts(
    write_audio2img: Callable[..., Path], noise_with_texts: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    path, folder = data_of(write_audio2img, noise_with_texts, tmp_path, Caption=None)
    assert "no usable rows in train.json" in refused(train.main, "--config", str(path))
    argv = ["--config", str(path), "--dataset", "new", "--input", str(folder / "train.json")]
    error = refused(preprocess.main, *argv, "preprocess.text_field=tags")
    assert "not one usable clip (8 no text)" in error and "preprocess.text_field=tags" in error


def test_a_batch_of_one_sound_says_that_its_loss_is_zero(
    write_audio2img: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_audio2img(train={"batch_size": 1, "max_steps": 1}))
    assert cli.run(train.main, ["--config", path]) == 0
    printed = capsys.readouterr().err
    assert printed.count("train.batch_size is 1, and the contrastive loss of one sound is 0") == 1
    assert "train/loss 0\n" in printed
    assert cli.run(train.main, ["--config", path, "exp_name=other", "model.loss.negative_texts=2"]) == 0
    printed = capsys.readouterr().err
    assert "train.batch_size is 1" not in printed and "train/loss 0\n" not in printed


def test_another_text_encoder_is_refused_on_resume(
    write_audio2img: Callable[..., Path], tiny_stable_diffusion: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = str(write_audio2img(train={"max_steps": 2}))
    assert cli.run(train.main, ["--config", path]) == 0
    weights = Path(shutil.copytree(tiny_stable_diffusion, tmp_path / "other")) / "text_encoder/model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    argv = ["--config", path, "--resume", "train.max_steps=4", f"model.stable_diffusion='{tmp_path}/other'"]
    error = refused(train.main, *argv)
    assert "model.stable_diffusion" in error and "these are not the weights that the run began with" in error


@pytest.fixture(scope="module")
def exported(make_wav2vec2_bert: Callable[..., Path], tiny_stable_diffusion: Path, parts: Path) -> Path:
    """An exported folder of states of width 32."""
    folder = Path(shutil.copytree(parts / "adapter", parts / "exported"))
    settings = {"recipe": "a2i/audio2img", "stable_diffusion": str(tiny_stable_diffusion), "prompt": "<*>"}
    (folder / "audio_to_image.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def infer(exported: Path, root: Path, tmp_path: Path) -> list[str]:
    """Arguments of run_inference.sh."""
    config = str(root / "egs/a2i/audio2img/exp_config.json")
    out = ["--output_dir", str(tmp_path / "out"), "--num_steps", "1", "--device", "cpu"]
    return ["--config", config, "--checkpoint", str(exported), *out]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short.wav", "short.wav: 0.190 s long, at least 0.2 s are needed"),
        ("silent.wav", "silent.wav: silent"),
        ("nan.wav", "nan.wav: 3 samples are NaN or infinite"),
        ("cut.wav", "cut.wav: "),
        ("empty.wav", "empty.wav: empty file"),
        ("text.wav", "text.wav: "),
        ("picture.png", "picture.png: "),
    ],
)
def test_sounds_that_cannot_be_used(
    infer: list[str], refused: Callable[..., str], tmp_path: Path, name: str, message: str
) -> None:
    path, wave = tmp_path / name, np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    if name == "nan.wav":
        wave[100:103] = np.nan
    if name in ("empty.wav", "text.wav", "picture.png"):
        path.write_text("" if name == "empty.wav" else "no sound")
    else:
        wave = {"short.wav": wave[:3040], "silent.wav": 0 * wave}.get(name, wave)
        soundfile.write(path, wave, RATE, subtype="FLOAT")
    if name == "cut.wav":
        path.write_bytes(path.read_bytes()[:30000])
    assert message in refused(inference.main, *infer, "--audio", str(path))
    assert not (tmp_path / "out").exists()


def test_a_stable_diffusion_of_another_width(
    infer: list[str], refused: Callable[..., str], parts: Path, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "sound.wav", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    argv = [*infer, "--audio", str(tmp_path / "sound.wav"), "--stable_diffusion", str(parts / "wide")]
    error = refused(inference.main, *argv)
    assert "--stable_diffusion" in error and "32" in error and "48" in error
