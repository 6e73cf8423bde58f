"""wavy's commands on networks, data and recordings that do not serve: one clear line each, exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from sonolume.bins import inference, train
from sonolume.utils import cli
from tests import runs

RATE = 16000
Refused = Callable[..., str]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def parts(
    wavy_parts: SimpleNamespace, wavy_encoder: Path, wavy_heads: SimpleNamespace,
    build_stable_diffusion: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """Folders that are damaged or do not fit."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionModelWithProjection,
        HubertModel,
        T5Config,
        T5EncoderModel,
    )

    from tests.models.s2i import tiny

    folder = tmp_path_factory.mktemp("parts")
    text = CLIPTextConfig(vocab_size=99, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    CLIPTextModelWithProjection(text).save_pretrained(folder / "clip_text")
    t5 = T5Config(vocab_size=99, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(t5).save_pretrained(folder / "t5")
    vision = Path(shutil.copytree(wavy_parts.clip, folder / "vision"))
    CLIPVisionModelWithProjection.from_pretrained(wavy_parts.clip).save_pretrained(vision)
    for name, settings in (("deeper", {"num_hidden_layers": 3}), ("wider", {"hidden_size": 24})):
        shutil.copytree(wavy_parts.hubert, folder / name)
        sizes = json.loads((folder / name / "config.json").read_text()) | settings
        HubertModel(HubertModel.config_class.from_dict(sizes)).save_pretrained(folder / name)
        encoder = Path(shutil.copytree(wavy_encoder, folder / f"encoder_of_{name}")) / "audio_to_image.json"
        encoder.write_text(json.dumps(json.loads(encoder.read_text()) | {"hubert": str(folder / name)}))
    weights = Path(shutil.copytree(wavy_parts.hubert, folder / "cut")) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (Path(shutil.copytree(wavy_parts.clip, folder / "no_weights")) / "model.safetensors").unlink()
    (Path(shutil.copytree(wavy_parts.hubert, folder / "no_extractor")) / "processor_config.json").unlink()
    (Path(shutil.copytree(wavy_parts.clip, folder / "no_processor")) / "preprocessor_config.json").unlink()
    for name, old, new in (("no_head", '"head": "token"', '"head": "other"'), ("no_hubert", '"hubert"', '"gone"')):
        path = Path(shutil.copytree(wavy_heads.token, folder / name)) / "audio_to_image.json"
        path.write_text(path.read_text().replace(old, new))
    shutil.rmtree(Path(shutil.copytree(wavy_heads.token, folder / "without_head")) / "head")
    tiny.write_sound(folder / "speech.wav")
    build_stable_diffusion(folder / "wide", width=48)
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["image_encoder.model='{}/t5'"], "model.image_encoder.model {}/t5: holds a model of type t5, not clip"),
        (["image_encoder.model='{}/clip_text'"], "clip_text: holds a model of type clip_text_model, not clip"),
        (["image_encoder.model='{}/no_weights'"], "model.safetensors"),
        (["image_encoder.model='{}/no_processor'"], "its ImageProcessor cannot be loaded"),
        (["image_encoder.model=nowhere/at/all"], "model.image_encoder.model nowhere/at/all"),
        (["image_encoder.model='{}/vision'", "loss.text_weight=1"], "has no text encoder: choose a CLIP, or "),
        (["image_encoder.model='{vit}'"], "give them a trained projector, model.image_encoder.projection_dim"),
        (["image_encoder.model='{vit}'", "image_encoder.projection_dim=6", "loss.text_weight=1"], "no text encoder"),
        (["image_encoder.projection_dim=6", "loss.text_weight=1"], "model.image_encoder.projection_dim 6"),
        (["speech_encoder.hubert='{}/t5'"], "holds T5EncoderModel, not HubertModel"),
        (["speech_encoder.hubert='{}/cut'"], "model.safetensors: cut or damaged"),
        (["speech_encoder.hubert='{}/no_extractor'"], "its Wav2Vec2FeatureExtractor cannot be loaded"),
        (["speech_encoder.hubert=nowhere/at/all"], "model.speech_encoder.hubert nowhere/at/all"),
        (["speech_encoder.num_heads=3"], "num_heads 3 does not divide 16, the width of HuBERT"),
    ],
)  # fmt: skip
def test_aligning_networks_that_do_not_fit(
    write_wavy: Write, wavy_parts: SimpleNamespace, refused: Refused, parts: Path, overrides: list[str], message: str
) -> None:
    given = ["model." + one.format(parts, vit=wavy_parts.vit) for one in overrides]
    assert message.format(parts) in refused(train.main, "--config", str(write_wavy()), *given)


@pytest.mark.parametrize(
    ("head", "overrides", "message"),
    [
        ("token", ["encoder='{}/encoder_of_deeper'"], "3 layers of width 16, the speech encoder was trained on 2 of"),
        ("sequence", ["encoder='{}/encoder_of_wider'"], "2 layers of width 24, the speech encoder was trained on 2 of"),
        ("token", ["encoder=nowhere/at/all"], "model.encoder nowhere/at/all"),
        ("token", ["encoder='{}/t5'"], "not an exported folder of s2i/wavy: holds T5EncoderModel"),
        ("token", ["stable_diffusion='{}/t5'"], "holds T5EncoderModel, not StableDiffusionPipeline"),
        ("sequence", ["stable_diffusion=nowhere/at/all"], "model.stable_diffusion nowhere/at/all"),
        ("image", [], "model.head image is not trained: make its folder from that of stage 1 with"),
        ("token", ["prompt='{words} <*>'"], "has 78 tokens, the text encoder reads 75: shorten it"),
    ],
)
def test_heads_on_networks_that_do_not_fit(
    write_head: Write, refused: Refused, parts: Path, head: str, overrides: list[str], message: str
) -> None:
    given = ["model." + one.format(parts, words="a " * 75 + "a") for one in overrides]
    assert message in refused(train.main, "--config", str(write_head(head)), *given)


def changed_data(spoken: Path, tmp_path: Path, change: Callable[[int, dict[str, Any]], object]) -> dict[str, str]:
    """Copy the data, change each row of its manifests by `change(number, row)`, and return the config's section."""
    folder = Path(shutil.copytree(spoken / "noise", tmp_path / "data/noise", ignore=shutil.ignore_patterns("cache")))
    for split in ("train", "valid"):
        rows = json.loads((folder / f"{split}.json").read_text())
        for number, row in enumerate(rows):
            change(number, row)
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return {"processed_dir": str(tmp_path / "data")}


def test_one_picture_has_nothing_to_be_contrasted_with(
    write_wavy: Write, spoken: Path, refused: Refused, tmp_path: Path
) -> None:
    data = changed_data(spoken, tmp_path, lambda _, row: row.update(Image="frames/train0"))
    error = refused(train.main, "--config", str(write_wavy(preprocess=data)))
    assert "noise: the recordings show 1 picture" in error and "needs at least two" in error


@pytest.mark.parametrize("head", ["sequence", None])
def test_recordings_without_captions(
    write_wavy: Write, write_head: Write, spoken: Path, refused: Refused, tmp_path: Path, head: str | None
) -> None:
    data = changed_data(spoken, tmp_path, lambda number, row: number % 2 and row.pop("Caption"))
    path = write_head(head, preprocess=data) if head else write_wavy(preprocess=data)
    error = refused(train.main, "--config", str(path), "model.loss.text_weight=1")
    assert "noise: 4 recordings have no Caption, such as train1" in error
    assert ("model.head sequence" if head else "model.loss.text_weight") in error
    if not head:
        assert cli.run(train.main, ["--config", str(path), "train.max_steps=1"]) == 0  # pictures alone


def test_prepared_recordings_that_were_damaged_since(
    write_wavy: Write, spoken: Path, refused: Refused, tmp_path: Path
) -> None:
    data = changed_data(spoken, tmp_path, lambda *_: None)
    recording = tmp_path / "data/noise/audio/train2.wav"
    recording.write_bytes(recording.read_bytes()[:20])
    assert "train2.wav" in refused(train.main, "--config", str(write_wavy(preprocess=data)))
    recording.unlink()
    assert cli.run(train.main, ["--config", str(write_wavy(preprocess=data)), "train.max_steps=1"]) == 0  # left out
    picture = tmp_path / "data/noise/frames/train1/still.png"
    picture.write_bytes(picture.read_bytes()[:100])
    shutil.rmtree(tmp_path / "data/noise/cache")
    error = refused(train.main, "--config", str(write_wavy(preprocess=data)), "exp_name=other")
    assert "frames/train1/still.png" in error


@pytest.mark.usefixtures("no_previews")
def test_silent_and_very_short_recordings_train(
    write_wavy: Write, write_head: Write, spoken: Path, tmp_path: Path
) -> None:
    """Preparation leaves them out; their loss is finite, whoever made the data."""
    data: dict[str, Any] = changed_data(spoken, tmp_path, lambda _, row: row.pop("Duration"))
    soundfile.write(tmp_path / "data/noise/audio/train0.wav", np.zeros(8000), RATE)
    soundfile.write(tmp_path / "data/noise/audio/train1.wav", np.full(300, 0.1), RATE)  # less than a frame
    heads = (write_head(head, head, preprocess=data) for head in ("token", "sequence"))
    for path in (write_wavy("encoder", preprocess=data), *heads):
        argv = ["--config", str(path), f"exp_name={path.stem}", "train.max_steps=2", "train.batch_size=8"]
        assert cli.run(train.main, argv) == 0
        weights = runs.last(tmp_path / path.stem)["state_dict"]
        assert all(weight.isfinite().all() for weight in weights.values()), path.stem


def test_a_batch_of_one_recording_says_that_its_loss_is_zero(write_wavy: Write, capsys: Any) -> None:
    path = write_wavy(train={"batch_size": 1, "max_steps": 1})
    assert cli.run(train.main, ["--config", str(path)]) == 0
    printed = capsys.readouterr().err
    assert printed.count("train.batch_size is 1, and the contrastive loss of one recording is 0") == 1
    assert "train/loss 0" in printed


@pytest.fixture
def infer(wavy_heads: SimpleNamespace, root: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """infer(head="token", *flags): arguments of run_inference.sh."""

    def argv(head: Path | str = "token", *flags: str) -> list[str]:
        folder = head if isinstance(head, Path) else getattr(wavy_heads, head)
        config = ["--config", str(root / "egs/s2i/wavy/exp_config.json"), "--checkpoint", str(folder)]
        return [*config, "--output_dir", str(tmp_path / "out"), "--num_steps", "1", "--device", "cpu", *flags]

    return argv


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short.wav", "short.wav: 0.090 s long, at least 0.1 s are needed"),
        ("silent.wav", "silent.wav: silent"),
        ("nan.wav", "nan.wav: 3 samples are NaN or infinite"),
        ("long.wav", "long.wav: 30.5 s long, at most 30 s are encoded: --span START-END chooses a part"),
        ("cut.wav", "cut.wav: "),
        ("text.wav", "text.wav: "),
    ],
)
def test_recordings_that_cannot_be_used(
    infer: Callable[..., list[str]], refused: Refused, tmp_path: Path, name: str, message: str
) -> None:
    path, wave = tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 488_000).astype(np.float32)
    if name == "nan.wav":
        wave[100:103] = np.nan
    count = {"short.wav": 1440, "long.wav": 488_000}.get(name, RATE)
    soundfile.write(path, wave[:count] * (name != "silent.wav"), RATE, subtype="FLOAT")
    if name == "cut.wav":
        path.write_bytes(path.read_bytes()[:30])
    if name == "text.wav":
        path.write_text("no sound")
    assert message in refused(inference.main, *infer("token", "--audio", str(path)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("head", "flags", "message"),
    [
        ("token", ["--prompt", "a " * 74 + "<*>"], "has 76 tokens, the text encoder reads 75: shorten it"),
        ("token", ["--prompt", "<*> " * 38], "has 76 tokens, the text encoder reads 75: shorten it"),
        ("sequence", ["--prompt", "a " * 76 + "<*>"], "has 76 tokens, the text encoder reads 75"),
        ("token", ["--stable_diffusion", "{}/wide"], "the audio tokens have width 32, the text encoder of this"),
        ("no_head", [], "head is 'other', expected token, sequence, image"),
        ("no_hubert", [], "audio_to_image.json: hubert missing: export the run again"),
        ("without_head", [], "head"),
        ("encoder_of_wider", [], "is a speech encoder without a head and cannot draw: train a head"),
        ("t5", [], "not an exported folder of s2i/wavy: holds T5EncoderModel"),
    ],
)
def test_folders_and_prompts_that_cannot_be_drawn(
    infer: Callable[..., list[str]], refused: Refused, parts: Path, head: str, flags: list[str], message: str
) -> None:
    chosen = head if head in ("token", "sequence") else parts / head
    argv = infer(chosen, "--audio", str(parts / "speech.wav"), *(flag.format(parts) for flag in flags))
    assert message in refused(inference.main, *argv)


def test_an_encoder_folder_of_another_hubert(refused: Refused, parts: Path, root: Path, tmp_path: Path) -> None:
    for name, found in (("deeper", "3 layers of width 16"), ("wider", "2 layers of width 24")):
        config = ["--config", str(root / "egs/s2i/wavy/encoder.json")]
        argv = [*config, "--checkpoint", str(parts / f"encoder_of_{name}"), "--audio", str(parts / "speech.wav")]
        argv += ["--embed", str(tmp_path / "x.npz")]
        assert found in refused(inference.main, *argv)
