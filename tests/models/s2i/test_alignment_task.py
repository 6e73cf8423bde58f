"""Stage 1 of wavy on tiny random networks: losses, caches, towers that are trained, resuming, and retrieval."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, HubertModel, ViTModel

from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.s2i.wavy.alignment_task import AlignmentTask, retrieval
from sonolume.models.s2i.wavy.data import SpeechBatch
from sonolume.models.s2i.wavy.encoder import load_images, load_vectors
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from tests import runs

CPU = torch.device("cpu")
Write = Callable[..., Path]
TRAIN_BOTH = ["model.speech_encoder.train=true", "model.image_encoder.train=true"]


def run(config: Path, *overrides: str, name: str = "run") -> tuple[list[float], str]:
    return runpy.run_path(str(Path(__file__).parents[1] / "processes.py"))["run"](config, name, *overrides)


def build(config: Path, *overrides: str) -> AlignmentTask:
    """The task as it is in a running training, without dropout."""
    task, data = training.build(load_config(config, list(overrides)))
    assert isinstance(task, AlignmentTask)
    trainer = {"training": False, "world_size": 1, "datamodule": SimpleNamespace(data=data)}
    task.trainer = SimpleNamespace(**trainer)  # type: ignore[assignment]
    task.eval().on_fit_start()
    return task


def batch_of(task: AlignmentTask, *recordings: int, split: str = "train") -> SpeechBatch:
    data = task.trainer.datamodule.data  # type: ignore[attr-defined]
    return data.collate([getattr(data, split)[0, number] for number in recordings])


@torch.no_grad()
def losses(task: AlignmentTask, batch: SpeechBatch) -> dict[str, float]:
    return {name: loss.item() for name, loss in task.losses(batch)[1].items()}


def contrast(cosines: np.ndarray, groups: list[int], scale: float) -> float:
    """Mean of both directions: choose the right partner among those of other groups."""
    logits, rows = cosines * scale, range(len(groups))
    found = []
    for one in (logits, logits.T):
        for i in rows:
            others = [one[i, j] for j in rows if groups[j] != groups[i] or i == j]
            found.append(np.log(np.exp(others).sum()) - one[i, i])
    return float(np.mean(found))


def cosines(one: Tensor, other: Tensor) -> np.ndarray:
    one, other = (torch.nn.functional.normalize(side.double(), dim=-1) for side in (one, other))
    return (one @ other.T).detach().numpy()


def test_the_loss_in_closed_form(write_wavy: Write, wavy_parts: SimpleNamespace) -> None:
    """From the files, by transformers' own classes; recordings 1 and 5 are of one picture."""
    task = build(write_wavy(preprocess={"cache_features": "never"}))
    batch, rows = batch_of(task, 1, 5, 2, 0), task.trainer.datamodule.data.train.rows  # type: ignore[attr-defined]
    assert batch.group.tolist() == batch.picture.tolist() == [1, 1, 2, 0]
    chosen = [rows[number] for number in (1, 5, 2, 0)]
    clip: Any = CLIPModel.from_pretrained(wavy_parts.clip)
    processor = CLIPImageProcessorPil.from_pretrained(wavy_parts.clip)
    pictures = [open_image(row.image / "still.png") for row in chosen]
    pixels = processor(images=pictures, return_tensors="pt").pixel_values
    images = clip.visual_projection(clip.vision_model(pixels).pooler_output)
    hubert: Any = HubertModel.from_pretrained(wavy_parts.hubert).eval()
    speech = []
    for number, row in zip((1, 5, 2, 0), chosen, strict=True):
        data: Any = task.trainer.datamodule.data.train  # type: ignore[attr-defined]
        window, _ = data.draw((0, number))
        start = round(float(data.windows.starts[window]) * 16000)
        wave = torch.from_numpy(audio.load(row.audio, 16000)[start : start + 12800]).double()
        wave = ((wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()).float()
        states = hubert(wave[None], output_hidden_states=True).hidden_states
        assert int(batch.lengths[len(speech)]) == 12800 or row.duration == 0.5
        normal = [torch.nn.functional.layer_norm(state[0], (16,)) for state in states]
        frames = torch.stack(normal).mean(dim=0)                                             # weights are equal
        full = task.encoder.pool(torch.cat([task.encoder.cls[0], frames])[None])[0, 0]
        speech.append(task.encoder.proj(full))
    expected = contrast(cosines(torch.stack(speech), images), [1, 1, 2, 0], 1 / 0.07)
    found = losses(task, batch)
    assert found == pytest.approx({"loss": expected, "image": expected}, rel=1e-4)
    assert losses(task, batch_of(task, 3)) == {"loss": 0, "image": 0}


@pytest.mark.parametrize("images", ["clip", "vit"])
def test_cached_features_give_the_loss_of_computed_ones(
    write_wavy: Write, wavy_parts: SimpleNamespace, images: str
) -> None:
    model = {"model": str(getattr(wavy_parts, images)), "projection_dim": 0 if images == "clip" else 6}
    path, found = write_wavy(model={"image_encoder": model}), []
    for overrides in (["always"], ["never"], ["never", "model.image_encoder.train=true"]):
        task = build(path, f"preprocess.cache_features={overrides[0]}", *overrides[1:])
        data: Any = task.trainer.datamodule.data  # type: ignore[attr-defined]
        assert (data.train.states is None) is (overrides[0] == "never")
        assert (data.train.vectors is None) is (len(overrides) == 2)
        assert task.encoder.proj.out_features == (8 if images == "clip" else 6)
        found.append(losses(task, batch_of(task, 0, 1, 2, 3)))
    assert found[1] == pytest.approx(found[0], rel=2e-3)  # hidden states are kept in half precision
    assert found[2] == pytest.approx(found[1], rel=1e-5)


def test_a_base_model_reads_the_padding(write_wavy: Write, wavy_parts: SimpleNamespace) -> None:
    path = write_wavy(preprocess={"cache_features": "never"})
    task = build(path, f"model.speech_encoder.hubert='{wavy_parts.base}'")
    batch = batch_of(task, 0, 2)
    assert batch.lengths.tolist() == [12800, 8000]
    states, frames = task.hubert.layers([batch.speech[1][:8000]], 12800)
    values = torch.from_numpy(batch.speech[1][:8000].numpy())
    values = torch.cat([(values - values.mean()) / (values.var(correction=0) + 1e-7).sqrt(), torch.zeros(4800)])
    with torch.no_grad():
        expected = task.hubert.model(values[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[0], torch.stack(expected)[:, 0], rtol=1e-4, atol=1e-5)
    assert frames.tolist() == [24] and states.shape[2] == 39


def test_the_captions_are_a_second_term(write_wavy: Write, wavy_parts: SimpleNamespace) -> None:
    task = build(write_wavy(), "model.loss.text_weight=0.5")
    batch = batch_of(task, 0, 1, 2, 5)
    clip: Any = CLIPModel.from_pretrained(wavy_parts.clip)
    tokenizer = CLIPTokenizer.from_pretrained(wavy_parts.clip)
    texts = [task.trainer.datamodule.data.train.rows[number].captions[0] for number in (0, 1, 2, 5)]  # type: ignore[attr-defined]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    text = clip.text_projection(clip.text_model(**tokens).pooler_output)
    with torch.no_grad():
        speech, _ = task.embed(batch)
    found = losses(task, batch)
    assert found["text"] == pytest.approx(contrast(cosines(speech, text), [0, 1, 2, 1], 1 / 0.07), rel=1e-4)
    assert found["loss"] == pytest.approx(found["image"] + 0.5 * found["text"])


def test_recordings_of_one_label_need_not_be_negatives(write_wavy: Write, spoken: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(spoken / "noise", tmp_path / "data/noise", ignore=shutil.ignore_patterns("cache")))
    rows = json.loads((folder / "train.json").read_text())
    for number, label in enumerate(("dog", "dog", None, "dog")):
        rows[number]["Label"] = label
    (folder / "train.json").write_text(json.dumps(rows))
    path = write_wavy(preprocess={"processed_dir": str(tmp_path / "data"), "cache_features": "never"})
    masked = batch_of(build(path, "model.loss.mask_same_label=true"), 0, 1, 2, 3, 6)
    assert masked.group.tolist() == [0, 0, 1, 0, 1] and masked.picture.tolist() == [0, 1, 2, 3, 2]
    plain = batch_of(build(path, "model.loss.mask_same_picture=false"), 0, 1, 2, 3, 6)
    assert len(set(plain.group.tolist())) == 5


@pytest.mark.parametrize("fixed", [False, True])
def test_a_step_trains_the_network_on_top_of_hubert_alone(write_wavy: Write, tmp_path: Path, fixed: bool) -> None:
    path = write_wavy(train={"max_steps": 2, "ema_decay": 0.0})
    overrides = [f"model.loss.train_temperature={str(not fixed).lower()}", "model.loss.temperature=0.1"]
    before = {name: weight.clone() for name, weight in build(path, *overrides).state_dict().items()}
    found, _ = run(path, *overrides)
    assert len(found) == 2 and np.isfinite(found).all()
    after = runs.last(tmp_path / "run")["state_dict"]
    assert after.keys() == before.keys() and all(name.startswith("encoder.") for name in after)
    same = {name for name, weight in after.items() if weight.equal(before[name])}
    assert same == ({"encoder.logit_scale"} if fixed else set())
    assert before["encoder.logit_scale"].exp() == pytest.approx(10)


def test_towers_are_trained_exported_and_loaded(write_wavy: Write, wavy_parts: SimpleNamespace, tmp_path: Path) -> None:
    model = {"image_encoder": {"model": str(wavy_parts.vit), "projection_dim": 6}}
    path = write_wavy(model=model, train={"ema_decay": 0.0})
    run(path, *TRAIN_BOTH)
    folder, last = tmp_path / "run/pipeline", runs.last(tmp_path / "run")["state_dict"]
    settings = json.loads((folder / "audio_to_image.json").read_text())
    names = {"recipe": "s2i/wavy", "stage": "encoder", "hubert": "hubert", "image_encoder": "image_encoder"}
    assert settings.items() >= names.items()
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    vectors = load_vectors(moved, settings, CPU, torch.float32)
    images = load_images(moved, settings, vectors, CPU, torch.float32)
    towers: dict[str, tuple[Any, Any]] = {
        "trained_hubert": (vectors.hubert.model, HubertModel.from_pretrained(wavy_parts.hubert)),
        "trained_images": (images.model, ViTModel.from_pretrained(wavy_parts.vit)),
    }
    # the last layer norm of HuBERT is behind its last hidden state
    unused = ("masked_spec_embed", "encoder.layer_norm.weight", "encoder.layer_norm.bias", "pooler.dense.weight",
              "pooler.dense.bias")  # fmt: skip
    for prefix, (loaded, fresh) in towers.items():
        begun = fresh.state_dict()
        for name, weight in loaded.state_dict().items():
            assert weight.equal(last[f"{prefix}.{name}"]), name
            assert weight.equal(begun[name]) is (name in unused), name
    for name, weight in vectors.speech_encoder.state_dict().items():
        assert weight.equal(last[f"encoder.{name}"]), name


def test_frozen_towers_are_named_only(write_wavy: Write, wavy_parts: SimpleNamespace, tmp_path: Path) -> None:
    run(write_wavy(train={"max_steps": 1}))
    folder = tmp_path / "run/pipeline"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "audio_to_image.json", "speech_encoder"]
    settings = json.loads((folder / "audio_to_image.json").read_text())
    assert (settings["hubert"], settings["image_encoder"]) == (str(wavy_parts.hubert), str(wavy_parts.clip))


@pytest.mark.parametrize(
    "overrides", [[], pytest.param([*TRAIN_BOTH, "model.loss.text_weight=1"], marks=pytest.mark.full)]
)
def test_resuming_is_exact(write_wavy: Write, tmp_path: Path, overrides: list[str]) -> None:
    path = write_wavy(train={"accumulate": 2})
    random = [*overrides, "model.speech_encoder.dropout=0.2"]
    runs.assert_resumes(path, random)


@pytest.mark.parametrize("part", ["hubert", "clip"])
def test_other_frozen_weights_are_refused_on_resume(
    write_wavy: Write, wavy_parts: SimpleNamespace, tmp_path: Path, part: str
) -> None:
    path = write_wavy(train={"max_steps": 2})
    run(path, "train.max_steps=1")
    other = Path(shutil.copytree(getattr(wavy_parts, part), tmp_path / "other"))
    runs.change_weights(other, "" if part == "hubert" else "vision_model")
    key = "model.speech_encoder.hubert" if part == "hubert" else "model.image_encoder.model"
    with pytest.raises(UserError, match=f"{key}.*not the weights"):
        training.run(load_config(path, [f"{key}='{other}'"]), resume=True)


def test_a_larger_cache_than_allowed_is_not_written_but_one_that_is_there_is_used(
    write_wavy: Write, spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """8 recordings, three of two windows, of 39 frames with 3 states of width 16 in half precision."""
    shutil.copytree(spoken / "noise", tmp_path / "data/noise", ignore=shutil.ignore_patterns("cache"))
    settings = {"processed_dir": str(tmp_path / "data"), "cache_features": "auto", "cache_limit": 1e-9}
    path = write_wavy(preprocess=settings)

    def states() -> Any:
        return build(path).trainer.datamodule.data.train.states  # type: ignore[attr-defined]

    assert states() is None
    printed = capsys.readouterr().err
    size = 11 * 3 * 39 * 16 * 2 / 1e9
    assert f"hidden states of train would take {size:.3g} GB of disk: computed in each step" in printed
    computed = build(path, "preprocess.cache_limit=1").trainer.datamodule.data.train.states  # type: ignore[attr-defined]
    assert computed.shape == (11, 3, 39, 16)
    found = states()
    assert found is not None and np.array_equal(found, computed)


def test_the_metrics_of_validation_are_of_all_recordings(write_wavy: Write, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(write_wavy(train={"max_steps": 2, "batch_size": 3}))
    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    names = {f"val/R@{k}_{way}" for k in (1, 5, 10) for way in ("speech_to_image", "image_to_speech")}
    found = set(events.Tags()["scalars"])
    assert found >= names | {"val/mean_R@10", "val/loss", "train/image", "train/scale"}
    assert not any("chance" in name for name in found)
    assert events.Scalars("val/R@5_speech_to_image")[-1].value == 1  # there are three pictures
    value = events.Scalars("val/R@1_speech_to_image")[-1].value
    assert value in (0, 0.25, 0.5, 0.75, 1)


def test_retrieval_counts_all_captions_of_a_picture() -> None:
    """Pictures 4 (recordings 0 and 2), 7 and 9, by hand: the cosines of a recording with the pictures are its row."""
    images = torch.eye(3)
    speech = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.1], [0.1, 0.3, 0.2], [0.0, 0.2, 0.8]])
    numbers = torch.tensor([4, 7, 4, 9])
    found = retrieval(speech, images[[0, 1, 0, 2]], numbers)
    assert found["R@1_speech_to_image"] == pytest.approx(2 / 4)  # recordings 0 and 3; 1 finds 4 first, 2 finds 7
    assert found["R@1_image_to_speech"] == pytest.approx(3 / 3)  # 4: 0.9 of recording 0; 7: 0.4 of 1; 9: 0.8 of 3
    assert found["R@5_speech_to_image"] == found["R@10_image_to_speech"] == found["mean_R@10"] == 1
    assert found["chance_R@1_speech_to_image"] == pytest.approx(1 / 3)
    assert found["chance_R@1_image_to_speech"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    permuted = torch.tensor([3, 1, 0, 2])
    assert retrieval(speech[permuted], images[[0, 1, 0, 2]][permuted], numbers[permuted]) == found
