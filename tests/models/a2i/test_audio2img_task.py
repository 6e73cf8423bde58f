"""audio2img's training on tiny random networks: losses, cached states, resuming, processes and the exported folder."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from transformers import CLIPTextModel, Wav2Vec2BertModel

from sonolume.config.load import load_config
from sonolume.models import precision, training
from sonolume.models.a2i.audio2img.data import Batch, training_data
from sonolume.models.a2i.audio2img.task import Task, load_frozen
from sonolume.utils import checkpoint
from tests import runs

STATES = 13  # of a second of sound
TAU = 0.15


@pytest.fixture
def write(write_audio2img: Callable[..., Path]) -> Callable[..., Path]:
    """write(name="config", section={key: value}): a config that trains in a second, with four sounds in a batch."""
    return write_audio2img


PROCESSES = runpy.run_path(str(Path(__file__).parents[1] / "processes.py"))


def run(config: Path, *overrides: str, name: str = "run") -> tuple[list[float], str]:
    return PROCESSES["run"](config, name, *overrides)


def build(config: Path, *overrides: str) -> Task:
    """The task as it is in a running training."""
    settings = load_config(config, list(overrides))
    task, data = training.build(settings)
    trainer = {"training": False, "world_size": 1, "datamodule": SimpleNamespace(data=data)}
    task.trainer = SimpleNamespace(**trainer)  # type: ignore[assignment]
    task.eval().on_fit_start()
    assert isinstance(task, Task)
    return task


def batch_of(task: Task, *clips: int) -> Batch:
    data = task.trainer.datamodule.data  # type: ignore[attr-defined]
    return data.collate([data.train[0, clip] for clip in clips])


@torch.no_grad()
def losses(task: Task, batch: Batch, *negatives: int) -> dict[str, float]:
    return {name: loss.item() for name, loss in task.losses(batch, negatives)[1].items()}


@torch.no_grad()
def states_of(task: Task, batch: Batch) -> Tensor:
    """(B, K, D) float64."""
    return task.encoder(batch.features, attention_mask=batch.mask).last_hidden_state.double()


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def pick(query: Tensor, keys: list[Tensor], right: int) -> float:
    """Cross entropy of choosing the key at `right`."""
    logits = np.array([cosine(query, key) for key in keys]) / TAU
    return float(np.log(np.exp(logits).sum()) - logits[right])


def weights_of(folder: Path) -> dict[str, Tensor]:
    return runs.last(folder)["state_dict"]


def test_the_printed_loss_and_the_regression_terms(write: Callable[..., Path]) -> None:
    task = build(write(), "model.loss.lambda_cos=0.5", "model.loss.lambda_mse=2")
    batch = batch_of(task, 1, 3, 4)
    audio, text = states_of(task, batch), batch.states.double()
    assert audio.shape == text.shape == (3, STATES, 32)
    places = [(sound, place) for sound in range(3) for place in range(STATES)]
    contrastive = np.mean([pick(audio[i, k], list(text[:, k]), i) for i, k in places])
    distance = np.mean([1 - cosine(audio[i, k], text[i, k]) for i, k in places])
    error = float((audio - text).square().mean())
    expected = {"loss": contrastive + 0.5 * distance + 2 * error, "contrastive": contrastive}
    expected |= {"cosine_distance": distance}
    assert losses(task, batch) == pytest.approx(expected | {"mse": error}, rel=1e-5)


def test_the_symmetric_loss_of_centered_states(write: Callable[..., Path]) -> None:
    task = build(write(), "model.loss.name=symmetric", "model.loss.center_targets=true")
    batch, data = batch_of(task, 1, 3, 4), task.data("train")
    center = torch.from_numpy(np.array(data.states)).double().mean(dim=0)  # of distinct texts
    assert data.states.shape == (7, STATES, 32)
    audio, text = states_of(task, batch) - center, batch.states.double() - center
    places = [(sound, place) for sound in range(3) for place in range(STATES)]
    to_text = np.mean([pick(audio[i, k], list(text[:, k]), i) for i, k in places])
    to_sound = np.mean([pick(text[i, k], list(audio[:, k]), i) for i, k in places])
    assert losses(task, batch)["loss"] == pytest.approx((to_text + to_sound) / 2, rel=1e-4)


def test_equal_texts_are_no_negatives(write: Callable[..., Path]) -> None:
    plain, masked = build(write()), build(write(), "model.loss.mask_duplicates=true")
    batch = batch_of(plain, 0, 1, 2)
    assert batch.text.tolist() == [0, 1, 0]
    audio, text = states_of(plain, batch), batch.states.double()
    rows = {False: [[0, 1, 2]] * 3, True: [[0, 1], [0, 1, 2], [1, 2]]}  # columns of each sound
    for task, columns in ((plain, rows[False]), (masked, rows[True])):
        found = [pick(audio[i, k], list(text[columns[i], k]), columns[i].index(i))
                 for i in range(3) for k in range(STATES)]  # fmt: skip
        assert losses(task, batch)["loss"] == pytest.approx(np.mean(found), rel=1e-5)


def test_the_padding_of_short_sounds_is_left_out(write: Callable[..., Path]) -> None:
    task = build(write(), "model.loss.mask_padding=true", "model.loss.lambda_mse=1")
    batch = batch_of(task, 1, 2)  # a second and half a second
    assert batch.mask.sum(dim=1).tolist() == [49, 24]
    positions = task._positions(batch.mask)
    assert positions.sum(dim=1).tolist() == [STATES, 6] and bool(positions[1, :6].all())
    audio, text = states_of(task, batch), batch.states.double()
    places = [(0, k) for k in range(STATES)] + [(1, k) for k in range(6)]
    contrastive = np.mean([pick(audio[i, k], list(text[:, k]), i) for i, k in places])
    error = np.mean([float((audio[i, k] - text[i, k]).square().mean()) for i, k in places])
    assert losses(task, batch)["loss"] == pytest.approx(contrastive + error, rel=1e-5)


def test_further_texts_are_negatives_but_never_the_own_one(write: Callable[..., Path]) -> None:
    task = build(write())
    batch = batch_of(task, 1, 3)
    plain, own = losses(task, batch), batch.text.tolist()
    assert losses(task, batch_of(task, 1), own[0])["loss"] == 0
    data = task.data("train")
    audio, text = states_of(task, batch), batch.states.double()
    more = torch.from_numpy(np.array(data.states)).double()
    others = [[number for number in range(len(more)) if number != one] for one in own]
    found = [pick(audio[i, k], [*text[:, k], *more[others[i], k]], i) for i in range(2) for k in range(STATES)]
    given = losses(task, batch, *range(len(more)))
    assert given["loss"] == pytest.approx(np.mean(found), rel=1e-4) and given["loss"] > plain["loss"]


def test_states_are_computed_once_for_each_distinct_text(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in a second run, nor in training, however many negatives it has; their size is printed before."""
    rows: list[int] = []
    forward = CLIPTextModel.forward
    monkeypatch.setattr(
        CLIPTextModel, "forward", lambda self, ids, **options: rows.append(len(ids)) or forward(self, ids, **options)
    )
    calls: list[int] = []
    encode = Wav2Vec2BertModel.forward
    monkeypatch.setattr(
        Wav2Vec2BertModel, "forward", lambda self, *given, **named: calls.append(1) or encode(self, *given, **named)
    )
    path = write(preprocess={"input_length": 0.9})  # not cached by another test
    run(path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "GB of disk in" in line]
    assert sum(rows) == 7 + 3  # training, validation
    assert len(lines) == 4 and "mel features of train: 8 x 45 x 161 x 2 bytes" in lines[0]
    assert "text states of train: 7 x 12 x 32 x 2 bytes" in lines[1]
    forwards = len(calls)
    run(path, "model.loss.negative_texts=500", name="again")
    assert sum(rows) == 10 and len(calls) == 2 * forwards
    assert "GB of disk in" not in capsys.readouterr().err


def test_cached_features_give_the_loss_of_computed_ones(write: Callable[..., Path]) -> None:
    found = []
    for flag in ("true", "false"):
        task = build(write(), f"preprocess.cache_features={flag}")
        assert (task.data("train").features is None) is (flag == "false")
        found.append(losses(task, batch_of(task, 0, 1, 2, 3)))
    assert found[1] == pytest.approx(found[0], rel=1e-3)  # kept in half precision


def test_resuming_is_exact_and_dropout_depends_on_seed_and_step(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(train={"accumulate": 2})
    random = ["model.encoder.dropout=0.1", "model.layerdrop=0.3", "model.loss.negative_texts=2"]
    whole = runs.assert_resumes(path, random)
    without = weights_of(runs.train(load_config(path, ["exp_name=without"])))
    assert any(not weight.equal(without[name]) for name, weight in weights_of(whole).items())


def test_two_processes_train_as_one(
    write: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each sound is compared with the texts of both processes."""
    cures = {"name": "symmetric", "center_targets": True, "mask_duplicates": True, "mask_padding": True,
             "negative_texts": 3, "lambda_cos": 1.0, "lambda_mse": 1.0}  # fmt: skip
    train = {"max_steps": 3, "valid_interval": 3, "save_checkpoints_steps": 3}
    configs = [write("printed", train=train), write("symmetric", train=train, model={"loss": cures})]
    for config in configs:
        capfd.readouterr()
        ranks = PROCESSES["run_as_two"](config, f"two_{config.stem}", "train.batch_size=2")
        assert capfd.readouterr().err.count("of disk a checkpoint") == 1  # printed by one process
        found, _ = run(config, name="one")
        assert len(set(found)) == 3
        for losses, _ in ranks:
            assert losses == pytest.approx(found, rel=1e-5)
        assert ranks[0][1] == ranks[1][1]  # the same weights
        one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / f"two_{config.stem}")
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4, msg=name)
        (tmp_path / "one").rename(tmp_path / f"one_{config.stem}")


def test_frozen_layers_are_exactly_those(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(model={"freeze_layers": 2})
    before = {name: weight.clone() for name, weight in build(path).state_dict().items()}
    run(path, "train.ema_decay=0")
    kept = {name for name, weight in weights_of(tmp_path / "run").items() if weight.equal(before[name])}
    frozen = ("encoder.feature_projection.", "encoder.encoder.layers.0.", "encoder.encoder.layers.1.")
    assert kept == {name for name in before if name.startswith(frozen)}


@pytest.mark.parametrize("frozen", [0, 2])
def test_gradient_checkpointing_changes_no_gradient(write: Callable[..., Path], frozen: int) -> None:
    found = []
    for flag in ("false", "true"):
        overrides = [f"model.gradient_checkpointing={flag}", f"model.freeze_layers={frozen}"]
        task = build(write(), *overrides, "model.encoder.dropout=0.1").train()
        forwards: list[int] = []
        task.encoder.encoder.layers[2].ffn1.register_forward_hook(lambda *_, calls=forwards: calls.append(1))
        task.trainer.global_rank, task.log = 0, lambda *_, **__: None  # type: ignore[misc, method-assign]
        task.training_step(batch_of(task, 0, 1, 2, 3), 0).backward()
        gradients = {name: weight.grad for name, weight in task.named_parameters() if weight.grad is not None}
        found.append((len(forwards), gradients))
    (plain, expected), (checkpointed, gradients) = found
    assert (plain, checkpointed) == (1, 2) and expected.keys() == gradients.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


def test_half_precision_and_skipped_layers(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    path = write(train={"max_steps": 2})
    plain, weights = run(path, name="plain")
    half, _ = run(path, "train.precision=bf16-mixed", name="half")
    assert half == pytest.approx(plain, rel=3e-2) and half != plain
    skipping, others = run(path, "model.layerdrop=0.5", name="skipping")
    assert np.isfinite(skipping).all() and weights != others


def test_every_state_is_kept_when_layers_are_skipped(write: Callable[..., Path]) -> None:
    """transformers would skip layers of the adapter, too, whose states have other lengths."""
    task = build(write(), "model.layerdrop=0.999").train()
    batch = batch_of(task, 0, 1)
    assert task.encoder(batch.features, attention_mask=batch.mask).last_hidden_state.shape == (2, STATES, 32)
    strategy = DDPStrategy()
    task.trainer.strategy = strategy  # type: ignore[misc]
    task.setup("fit")
    assert strategy._ddp_kwargs["find_unused_parameters"]  # the skipped layers of a process


def test_an_encoder_without_adapter_gets_a_fresh_one(
    write: Callable[..., Path], make_wav2vec2_bert: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_wav2vec2_bert(tmp_path / "w2v", conformer_conv_dropout=0.1)
    task = build(write(), f"model.wav2vec2_bert='{folder}'", "model.gradient_checkpointing=true")
    stored = Wav2Vec2BertModel.from_pretrained(folder).state_dict()
    found = task.encoder.state_dict()
    fresh = {name for name in found if name.startswith("adapter.")}
    assert fresh and stored.keys() == found.keys() - fresh
    for name, weight in stored.items():
        assert found[name].equal(weight), name
    assert all(weight.isfinite().all() for weight in found.values())
    task, _ = training.build(task.config)
    assert task.encoder.training  # dropout and gradient checkpointing are used in this mode only
    assert {name for name, weight in task.named_parameters() if not weight.requires_grad} <= {
        "encoder.masked_spec_embed"
    }  # fmt: skip


def test_the_exported_folder_is_that_of_transformers(write: Callable[..., Path], tmp_path: Path) -> None:
    """Training continues from it with its adapter."""
    path = write()
    run(path, "train.ema_decay=0")
    folder = tmp_path / "run/pipeline"
    plain: Any = Wav2Vec2BertModel.from_pretrained(folder).eval()
    task = build(path, f"model.wav2vec2_bert='{folder}'")
    batch = batch_of(task, 1, 2)
    with torch.no_grad():
        expected = plain(batch.features, attention_mask=batch.mask).last_hidden_state
    assert states_of(task, batch).equal(expected.double())
    last = weights_of(tmp_path / "run")
    for name, weight in task.state_dict().items():
        assert weight.equal(last[name]), name
    assert json.loads((folder / "audio_to_image.json").read_text())["window"] == 1.0
    assert checkpoint.read(tmp_path / "run/checkpoints/last.ckpt")["frozen"]


def test_all_splits_share_the_texts_of_a_config(write: Callable[..., Path]) -> None:
    config = load_config(write())
    data: Any = training_data(config, load_frozen(config))
    assert data.train.texts == ["rain", "a dog", "wind", "a bell", "a car", "birds", "rain falls"]
    assert data.valid.texts == ["rain", "a cat", "a drum"]
    np.testing.assert_array_equal(data.train.states[0], data.valid.states[0])
    assert data.train[3, 1].features.equal(data.train[3, 1].features)


def test_gradients_of_gathered_states_have_the_layout_that_torch_expects(write: Callable[..., Path]) -> None:
    """torch's gathering sends a gradient of permuted strides to other sounds and positions."""
    task = build(write())
    task.trainer.training, task.trainer.world_size = True, 2  # type: ignore[misc, assignment]
    layouts: list[bool] = []

    def gather(values: Tensor, sync_grads: bool) -> Tensor:
        if sync_grads:
            values = values * 1
            values.register_hook(lambda gradient: layouts.append(gradient.is_contiguous()))
        return torch.stack([values, values.detach()])

    task.all_gather = gather  # type: ignore[method-assign, assignment]
    task.losses(batch_of(task, 0, 1))[1]["loss"].backward()
    assert layouts == [True]
