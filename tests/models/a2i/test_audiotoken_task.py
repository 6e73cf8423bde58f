"""AudioToken's training on tiny random networks: losses, cached features, resuming and the exported folder."""

import io
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.bins import evaluate, train
from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.a2i.audiotoken.data import training_data
from sonolume.models.a2i.audiotoken.encoder import load
from sonolume.models.a2i.audiotoken.task import Task, load_frozen
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.modules.beats.beats import BEATs
from sonolume.utils import audio, checkpoint, cli
from sonolume.utils.errors import UserError
from tests import runs

LENGTH, SECONDS = 1.0, 1.5


@pytest.fixture(scope="session")
def tiny_beats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("beats")
    BEATs(
        embed_dim=8, encoder_layers=3, encoder_embed_dim=16, encoder_ffn_embed_dim=16, encoder_attention_heads=2,
        conv_pos=16, conv_pos_groups=4, num_buckets=32, max_distance=64,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 clips to train on and 3 to validate on: a sound of 1.5 s with pictures at 0.25, 0.75 and 1.25 s."""
    folder = tmp_path_factory.mktemp("processed") / "pairs"
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("valid", 3)):
        rows = []
        for uid in (f"{split}{number}" for number in range(count)):
            audio.save_wav(folder / f"audio/{uid}.wav", random.normal(0, 0.1, int(SECONDS * 16000)), 16000)
            (folder / f"frames/{uid}").mkdir(parents=True)
            for second in ("000.250", "000.750", "001.250"):
                picture = random.integers(0, 256, (40, 50, 3), np.uint8)
                Image.fromarray(picture).save(folder / f"frames/{uid}/{second}.png")
            rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Image": f"frames/{uid}", "Duration": SECONDS})
            rows[-1] |= {"Label": "dog"} if len(rows) % 2 else {"Caption": "rain falls"}
        (folder / f"{split}.json").write_text(json.dumps(rows))
    return folder.parent


@pytest.fixture
def write(pairs: Path, tiny_beats: Path, tiny_stable_diffusion: Path, tmp_path: Path) -> Callable[..., Path]:
    """write(section={key: value}): a config that trains in a second."""
    shutil.copytree(pairs, tmp_path / "data")

    def make(**sections: dict[str, Any]) -> Path:
        content: dict[str, Any] = {
            "recipe": "a2i/audiotoken", "exp_name": "run", "log_dir": str(tmp_path), "dataset": ["pairs"],
            "preprocess": {
                "processed_dir": str(tmp_path / "data"), "input_length": LENGTH, "starts": 3, "width": 32, "height": 32,
            },
            "model": {"stable_diffusion": str(tiny_stable_diffusion), "beats": str(tiny_beats), "lambda_c": 1.0},
            "train": dict(runs.QUICK_TRAIN),
        }  # fmt: skip
        for name, values in sections.items():
            content[name] |= values
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        return path

    return make


PROCESSES = runpy.run_path(str(Path(__file__).parents[1] / "processes.py"))


def run(config: Path, *overrides: str, name: str = "run") -> tuple[list[float], str]:
    return PROCESSES["run"](config, name, *overrides)


def losses(config: Any, data: Any = None) -> dict[str, float]:
    """Losses of the first batch, without dropout."""
    frozen = load_frozen(config)
    data, task = data or training_data(config, frozen), Task(config, frozen)
    task.trainer = type("Trainer", (), {"training": False, "world_size": 1})()  # type: ignore[assignment]
    task.eval()
    batch = data.collate([data.train[0, index] for index in range(4)])
    with torch.no_grad():
        return {name: loss.item() for name, loss in task.losses(batch, training.step_draws(0, 0, 4)).items()}


def prepared(config: Any) -> Any:
    return training_data(config, load_frozen(config))


def test_it_trains_only_the_embedder_and_exports_it(write: Callable[..., Path], tmp_path: Path):
    path = write()
    found, _ = run(path)
    assert len(found) == 8 and all(np.isfinite(found))
    content = checkpoint.read(tmp_path / "run/checkpoints/last.ckpt")
    assert {name.split(".")[0] for name in content["state_dict"]} == {"embedder"}
    folder = tmp_path / "run/pipeline"
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    config = load_config(path)
    assert settings == {
        "recipe": "a2i/audiotoken", "stable_diffusion": config.model.stable_diffusion, "beats": config.model.beats,
        "prompt": "a photo of <*>", "window": LENGTH, "guidance_scale": 7.5,
    }  # fmt: skip
    assert sorted(path.name for path in folder.rglob("*.*")) == [
        "README.md", "audio_to_image.json", "config.json", "diffusion_pytorch_model.safetensors"
    ]  # fmt: skip
    encoder = load(folder, settings, torch.device("cpu"), torch.float32)
    tokens = encoder.encode_audio([torch.randn(16000), torch.randn(16000)])
    assert tokens.shape == (2, 1, 32) and not tokens[0].allclose(tokens[1])


def test_training_goes_on_as_if_it_had_never_stopped(write: Callable[..., Path], tmp_path: Path):
    """Also from a checkpoint that holds the whole hash of the frozen networks, as older ones do."""
    path = write()
    run(path, name="whole")
    run(path, "train.max_steps=2", name="half")
    last = tmp_path / "half/checkpoints/last.ckpt"
    content = checkpoint.read(last)
    assert len(content["frozen"]) == 12
    torch.save(content | {"frozen": content["frozen"] + 52 * "0"}, last)
    training.run(load_config(path, ["exp_name=half"]), resume=True)
    reference = checkpoint.read(tmp_path / "whole/checkpoints/last.ckpt")["state_dict"]
    for name, weight in checkpoint.read(last)["state_dict"].items():
        assert weight.equal(reference[name]), name


def test_cached_features_give_the_loss_of_recomputed_ones(write: Callable[..., Path]):
    path = write()
    cached, computed = (losses(load_config(path, [f"preprocess.cache_features={flag}"])) for flag in ("true", "false"))
    assert computed == pytest.approx(cached, rel=1e-3)  # kept in half precision


def test_every_loss_counts_by_its_weight(write: Callable[..., Path]):
    path = write(model={"lambda_a": 0.0, "lambda_b": 0.0, "cosine_loss": False})
    data = prepared(load_config(path))
    plain = losses(load_config(path), data)
    assert plain["loss"] == plain["noise"]
    for field, name in (("lambda_a", "l1"), ("lambda_b", "l2")):
        found = losses(load_config(path, [f"model.{field}=0.5"]), data)
        assert found["loss"] == pytest.approx(plain["noise"] + 0.5 * plain[name])
    found = losses(load_config(path, ["model.cosine_loss=true", "model.lambda_c=0.5"]), data)
    assert found["loss"] == pytest.approx(plain["noise"] + 0.5 * plain["classification"])
    assert min(plain.values()) > 0


def test_the_picture_is_of_the_time_of_the_sound(write: Callable[..., Path]):
    """Windows begin at 0, 0.25 and 0.5 s and last a second."""
    data = prepared(load_config(write())).train
    assert data.starts[:3].tolist() == [0, 0.25, 0.5]
    assert [data.images_during(0, start).tolist() for start in (0, 0.25, 0.5)] == [[0, 1], [0, 1, 2], [1, 2]]
    assert data.images_during(1, 9.0).tolist() == [5]  # none is inside: the nearest
    drawn = {(data[epoch, 1][0][0, 0].item(), data[epoch, 1][1][0, 0, 0].item()) for epoch in range(30)}
    assert 4 <= len(drawn) <= 7  # 2 + 3 + 2 pairs of a window and a picture
    assert data[3, 1][1].equal(data[3, 1][1])


def test_features_are_computed_once_and_anew_for_another_window(write: Callable[..., Path], tmp_path: Path):
    path = write()
    cache = tmp_path / "data/pairs/cache"

    def made() -> set[str]:
        prepared(load_config(path))
        return {folder.name for folder in cache.iterdir() if folder.is_dir()}

    first = made()
    times = {folder: folder.stat().st_mtime_ns for folder in cache.iterdir() if folder.is_dir()}
    assert len(first) == 4 and made() == first
    assert times == {folder: folder.stat().st_mtime_ns for folder in times}
    content = json.loads(path.read_text())
    content["preprocess"]["input_length"] = 0.5
    path.write_text(json.dumps(content))
    more = made() - first
    assert len(more) == 2 and all(name.startswith("features_of_") for name in more)


def test_adapters_are_trained_exported_and_kept_apart(write: Callable[..., Path], tmp_path: Path):
    pytest.importorskip("peft")
    path = write(model={"lora": True, "lora_rank": 2})
    run(path)
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "run/pipeline/lora/pytorch_lora_weights.safetensors")
    assert weights and all(name.startswith("unet.") for name in weights)
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)
    state = checkpoint.read(tmp_path / "run/checkpoints/last.ckpt")["state_dict"]
    assert {name.split(".")[0] for name in state} == {"embedder", "adapters"}


def test_another_stable_diffusion_is_refused_on_resume(
    write: Callable[..., Path], build_stable_diffusion: Callable[..., Path], tmp_path: Path
):
    path = write()
    run(path, "train.max_steps=2")
    other = build_stable_diffusion(tmp_path / "other")
    unet = next((other / "unet").glob("*.safetensors"))
    from safetensors.torch import load_file, save_file

    save_file({name: weight + 1 for name, weight in load_file(unet).items()}, unet, {"format": "pt"})
    with pytest.raises(UserError, match="model.stable_diffusion.*not the weights"):
        training.run(load_config(path, [f"model.stable_diffusion='{other}'"]), resume=True)


def test_the_preview_shows_real_pictures_above_drawn_ones(write: Callable[..., Path], tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training.run(load_config(write()), resume=False)
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    first, second = events.Images("preview")
    assert (first.width, first.height) == (96, 64)  # two rows of three pictures
    halves = [np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) for image in (first, second)]
    assert np.array_equal(halves[0][:32], halves[1][:32]) and not np.array_equal(halves[0][32:], halves[1][32:])


def test_pictures_of_validation_sounds_are_scored(write: Callable[..., Path], tmp_path: Path):
    """With the command lines; the scores themselves are tested in tests/models/evaluation."""
    path = str(write(train={"max_steps": 1, "accumulate": 1, "valid_interval": 9}))
    assert cli.run(train.main, ["--config", path]) == 0
    asked = ["--config", path, "--output_dir", str(tmp_path / "scores"), "--num_steps", "2", "--batch_size", "2"]
    assert cli.run(evaluate.main, [*asked, "--embedder", "mini:picture_judge"]) == 0
    folder = tmp_path / "scores"
    for name in ("generated", "caption", "VAE"):
        assert len(list((folder / name).glob("valid*.png"))) == 3, name
    scores = {score["name"]: score for score in json.loads((folder / "report.json").read_text())["scores"]}
    found = next(score for name, score in scores.items() if name.startswith("cosine to the reference"))
    assert {"caption", "VAE"} <= set(found["baselines"]) and found["count"] == 3
    assert found["baselines"]["VAE"][0] != found["value"] != found["baselines"]["caption"][0]
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png") if path.parent.name == "generated"}
    assert cli.run(evaluate.main, [*asked, "--embedder", "mini:picture_judge"]) == 0
    assert made == {path: path.stat().st_mtime_ns for path in made}  # not drawn again


def test_two_processes_train_as_one(write: Callable[..., Path], tmp_path: Path):
    """Their gradients are averaged, and the square of the mean cosine is of the whole batch's mean."""
    path = write(train={"max_steps": 3, "valid_interval": 3, "save_checkpoints_steps": 3})
    ranks = PROCESSES["run_as_two"](path, "two", "train.batch_size=2")
    found, _ = run(path, "train.batch_size=4", name="one")
    assert len(found) == 6 and len(set(found)) == 6
    for losses, _ in ranks:
        assert losses == pytest.approx(found, rel=1e-5)
    assert ranks[0][1] == ranks[1][1]  # the same weights
    files = [tmp_path / f"{name}/checkpoints/last.ckpt" for name in ("one", "two")]
    one, two = (checkpoint.read(file)["state_dict"] for file in files)
    del one["embedder.fga.un_models.0.feature_reduce.bias"]  # the softmax does not see it: Adam follows rounding errors
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)


def test_missing_parts_are_named(write: Callable[..., Path], tmp_path: Path):
    path = write()
    with pytest.raises(UserError, match="model.beats nowhere/beats.*bins/convert.py beats"):
        prepared(load_config(path, ["model.beats=nowhere/beats/x"]))
    with pytest.raises(UserError, match="run_preprocess.sh"):
        prepared(load_config(path, ["dataset=[other]"]))
    shutil.rmtree(tmp_path / "data/pairs/frames/train0")
    assert len(prepared(load_config(path)).train) == 9
