"""Stage 2 of wavy on tiny random networks: losses of both heads, resuming, processes, previews and exported folders."""

import io
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
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from sonolume.config.load import load_config
from sonolume.models import training
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from tests import runs

Write = Callable[..., Path]
STATES, WIDTH = 76, 32  # of the text encoder without the start state
TAU = 0.15


PROCESSES = runpy.run_path(str(Path(__file__).parents[1] / "processes.py"))


def run(config: Path, *overrides: str, name: str = "run") -> tuple[list[float], str]:
    return PROCESSES["run"](config, name, *overrides)


def build(config: Path, *overrides: str) -> Any:
    """The task as it is in a running training, without dropout."""
    task: Any
    task, data = training.build(load_config(config, list(overrides)))
    task.trainer = SimpleNamespace(training=False, world_size=1, datamodule=SimpleNamespace(data=data))
    task.eval().on_fit_start()
    return task


def batch_of(task: Any, *recordings: int) -> Any:
    data = task.trainer.datamodule.data
    return data.collate([data.train[0, number] for number in recordings])


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


@pytest.mark.parametrize("count", [1, 4])
def test_tokens_are_trained_through_the_frozen_networks(write_head: Write, tmp_path: Path, count: int) -> None:
    path = write_head("token", train={"max_steps": 2, "ema_decay": 0.0})
    tokens = f"model.token.num_tokens={count}"
    task = build(path, tokens)
    batch = batch_of(task, 0, 1, 2)
    assert batch.audio.shape == (3, 8) and batch.moments.shape == (3, 8, 8, 8)
    torch.testing.assert_close(batch.audio.norm(dim=1), torch.ones(3))
    with torch.no_grad():
        found = task.losses(batch, training.step_draws(0, 0, 3))
        made = task.head(batch.audio)
    assert made.shape == (3, count, WIDTH)
    table = task.frozen["sd"].text_encoder.get_input_embeddings().weight
    assert float(made.norm(dim=-1).mean()) == pytest.approx(float(table.norm(dim=1).mean()), rel=0.5)
    assert found["l1"].item() == pytest.approx(float(made.abs().mean()))
    assert found["loss"].item() == pytest.approx(float(found["noise"] + 0.01 * found["l1"]))
    before = {name: weight.clone() for name, weight in task.state_dict().items()}
    losses, _ = run(path, tokens)
    assert len(losses) == 2 and np.isfinite(losses).all()
    after = runs.last(tmp_path / "run")["state_dict"]
    assert after.keys() == before.keys() == {f"head.fc{n}.{part}" for n in (1, 2) for part in ("weight", "bias")}
    assert not any(weight.equal(before[name]) for name, weight in after.items())


def test_the_loss_of_states_in_closed_form(write_head: Write, wavy_parts: SimpleNamespace) -> None:
    """Recordings 0 and 4 have the same caption, thus no negatives of each other."""
    task = build(write_head("sequence", model={"sequence": {
        "width": 16, "layers": 1, "num_heads": 2, "dropout": 0.0, "lambda_contrastive": 0.5, "lambda_mse": 2.0,
    }}))  # fmt: skip
    batch = batch_of(task, 0, 4, 2)
    assert batch.text.tolist() == [0, 0, 2] and batch.states.shape == (3, STATES, WIDTH)
    tokenizer = CLIPTokenizer.from_pretrained(wavy_parts.sd / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(wavy_parts.sd / "text_encoder")
    with torch.no_grad():
        tokens = tokenizer(["a dog", "a dog", "a bell rings"], padding="max_length", return_tensors="pt").input_ids
        text = encoder(tokens).last_hidden_state[:, 1:]
        torch.testing.assert_close(batch.states, text, rtol=2e-3, atol=2e-3)  # in half precision on disk
        made = task.head(batch.speech, batch.lengths).double()
        found = {name: loss.item() for name, loss in task.losses(batch).items()}
    text, columns, terms = batch.states.double(), [[0, 2], [1, 2], [0, 1, 2]], []
    for k in range(STATES):
        for i, others in enumerate(columns):
            for one, other in ((made, text), (text, made)):
                logits = np.array([cosine(one[i, k], other[j, k]) for j in others]) / TAU
                terms.append(np.log(np.exp(logits).sum()) - logits[others.index(i)])
    distance = np.mean([1 - cosine(made[i, k], text[i, k]) for i in range(3) for k in range(STATES)])
    error, contrastive = float((made - text).square().mean()), float(np.mean(terms))
    expected = {"loss": 0.5 * contrastive + distance + 2 * error, "contrastive": contrastive}
    assert found == pytest.approx(expected | {"cosine_distance": distance, "mse": error}, rel=1e-4)


def test_cached_frames_give_the_loss_of_computed_ones(write_head: Write) -> None:
    path, found = write_head("sequence"), []
    for policy in ("always", "never"):
        task = build(path, f"preprocess.cache_features={policy}")
        batch = batch_of(task, 0, 1, 2)
        assert batch.speech.ndim == (3 if policy == "always" else 2)
        with torch.no_grad():
            found.append(task.losses(batch)["loss"].item())
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("head", ["token", "sequence"])
@pytest.mark.usefixtures("no_previews")
def test_resuming_is_exact(write_head: Write, head: str) -> None:
    path = write_head(head)
    random = ["model.sequence.dropout=0.2"]
    runs.assert_resumes(path, random, at=3)


@pytest.mark.usefixtures("no_previews")
def test_another_encoder_is_refused_on_resume(write_head: Write, wavy_encoder: Path, tmp_path: Path) -> None:
    path = write_head("sequence", train={"max_steps": 2})
    run(path, "train.max_steps=1")
    other = Path(shutil.copytree(wavy_encoder, tmp_path / "other"))
    runs.change_weights(other / "speech_encoder", "cls")
    with pytest.raises(UserError, match=f"model.encoder {other}.*not the weights"):
        training.run(load_config(path, [f"model.encoder='{other}'"]), resume=True)


@pytest.mark.parametrize("head", ["token", "sequence"])
def test_the_exported_folder_draws_what_the_training_draws(
    write_head: Write, write_wavy: Write, spoken: Path, tmp_path: Path, head: str
) -> None:
    """It needs nothing of stage 1 any more, whose networks were trained, too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = ["model.speech_encoder.train=true", "model.image_encoder.train=true"]
    stage1 = runs.train(load_config(write_wavy(train={"max_steps": 1}), [*trained, "exp_name=stage1"])) / "pipeline"
    settings = {"max_steps": 1, "valid_interval": 1, "ema_decay": 0.0, "save_checkpoints_steps": 1}
    path = write_head(head, train=settings, model={"encoder": str(stage1)})
    config = load_config(path)
    task: Any
    task, data = training.build(config)
    folder = training.fit(task, data, config, config.train, resume=False)
    waves = [audio.load(spoken / f"noise/audio/valid{number}.wav", 16000) for number in (0, 1)]

    def draw(pipe: AudioToImagePipeline) -> np.ndarray:
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(number) for number in (0, 1)]
        return pipe(waves, num_inference_steps=2, generator=generators, output_type="np").images

    task.eval()
    expected = draw(task.pipeline())
    stage1.rename(tmp_path / "elsewhere")
    moved = Path(shutil.move(folder / "pipeline", tmp_path / "moved"))
    loaded = AudioToImagePipeline.from_pretrained(moved)
    np.testing.assert_allclose(draw(loaded), expected, atol=1e-5)  # training has another kernel of the attention
    assert np.abs(expected[0] - expected[1]).max() > 0
    assert loaded.encoder.prompt == config.model.prompt == ("<*>" if head == "sequence" else "a photo of <*>")  # type: ignore[attr-defined]
    stored = json.loads((moved / "audio_to_image.json").read_text())
    assert (stored["stage"], stored["head"], stored["hubert"]) == ("head", head, "hubert")
    assert stored["image_encoder"] == "image_encoder" and (moved / "image_encoder/model.safetensors").is_file()
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    (preview,) = events.Images("preview")
    size = Image.open(io.BytesIO(preview.encoded_image_string)).size
    assert size == (4 * 32, (2 if head == "token" else 1) * 32)  # real pictures above those of four recordings


@pytest.mark.usefixtures("no_previews")
def test_two_processes_train_as_one(write_wavy: Write, write_head: Write, wavy_parts: Any, tmp_path: Path) -> None:
    """Each recording is compared with the pictures and captions of both processes."""
    train: dict[str, Any] = {"max_steps": 3, "valid_interval": 3, "save_checkpoints_steps": 3, "ema_decay": 0.0}
    train["adam"] = {"lr": 1e-2, "eps": 1e-3}  # a smaller one lets Adam follow rounding errors
    towers = {"speech_encoder": {"hubert": str(wavy_parts.hubert), "train": True, "num_heads": 2, "dropout": 0.0},
              "image_encoder": {"model": str(wavy_parts.vit), "train": True, "projection_dim": 6}}  # fmt: skip
    configs = [write_wavy("towers", train=train, model=towers), write_head("sequence", "sequence", train=train)]
    for config in configs:
        ranks = PROCESSES["run_as_two"](config, f"two_{config.stem}", "train.batch_size=2")
        found, _ = run(config, name=f"one_{config.stem}")
        assert len(found) == len(set(found)) == 3
        for losses, _ in ranks:
            assert losses == pytest.approx(found, rel=1e-5), config.stem
        assert ranks[0][1] == ranks[1][1]  # the same weights
        folders = tmp_path / f"one_{config.stem}", tmp_path / f"two_{config.stem}"
        one, two = (runs.last(folder)["state_dict"] for folder in folders)
        for name, weight in one.items():
            torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4, msg=f"{config.stem}: {name}")
