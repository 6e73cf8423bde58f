"""Training of Im2Wav's VQ-VAE on short sounds: codebooks, scales, resuming, two processes and the exported folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from sonolume.bins import train as bins_train
from sonolume.config.load import load_config
from sonolume.models.i2a.im2wav import parts
from sonolume.models.i2a.im2wav.vqvae_task import VqvaeTask
from sonolume.modules.im2wav.losses import LossScales
from sonolume.utils import audio, cli
from tests import runs
from tests.runs import PowerCut, cut_power, last

RATE, WINDOW = 16000, 2048
SHAPE = {"downs": [3, 1], "embedding_width": 4, "codes": 16, "width": 8, "depth": 2}
CODEBOOK = ("codes", "sums", "counts", "initialised")


def write_sounds(folder: Path, level: float) -> None:
    """6 sounds of half a second to train on and 2 to validate on."""
    random, time = np.random.default_rng(0), np.arange(RATE // 2) / RATE
    for split, count in (("train", 6), ("valid", 2)):
        rows = []
        for uid in (f"{split}{number}" for number in range(count)):
            tone = np.sin(2 * np.pi * random.uniform(100, 2000) * time) + random.normal(0, 0.1, time.shape)
            audio.save_wav(folder / f"audio/{uid}.wav", (level * tone).astype(np.float32), RATE)
            rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Duration": 0.5})
        (folder / f"{split}.json").write_text(json.dumps(rows))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(section={key: value}): a config that trains in a second."""
    for name, level in (("tones", 0.2), ("silence", 0.0)):
        write_sounds(tmp_path / "data" / name, level)

    def make(**train: Any) -> Path:
        content: dict[str, Any] = {
            "recipe": "i2a/im2wav", "stage": "vqvae", "exp_name": "run", "log_dir": str(tmp_path), "dataset": ["tones"],
            "preprocess": {"processed_dir": str(tmp_path / "data"), "window": WINDOW, "aug_shift": True},
            "model": {"vqvae": SHAPE},
            "train": {
                "batch_size": 2, "max_steps": 4, "accumulate": 2, "ema_decay": 0.8, "save_checkpoints_steps": 2,
                "valid_interval": 2, "num_workers": 0, "accelerator": "cpu", "devices": 1, "warmup_steps": 1,
                "gradient_clip": 1.0, "adam": {"lr": 1e-2}, "save_summary_steps": 1,
            } | train,
        }  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        return path

    return make


def train(config: Path, name: str, *overrides: str, **options: Any) -> Path:
    return runs.train(load_config(config, [f"exp_name={name}", *overrides]), **options)


def codebooks(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {name: weight for name, weight in weights.items() if name.endswith(CODEBOOK)}
    assert len(found) == 2 * len(CODEBOOK)
    return found


def test_resume_is_exact(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """The scales of the losses come from the checkpoint: they are not measured again."""
    config = write()
    straight = train(config, "straight")
    with pytest.raises(PowerCut):
        train(config, "killed", at=(6, cut_power))  # the checkpoint is of batch 4
    monkeypatch.delattr(LossScales, "estimate")
    runs.assert_same_training(straight, train(config, "killed", resume=True))
    assert last(straight)["scales"] == last(straight.parent / "killed")["scales"]


def test_the_average_has_the_codebooks_of_the_training(write: Callable[..., Path], tmp_path: Path):
    folder = train(write(), "run")
    content = last(folder)
    average, raw = content["state_dict"], content["current_model_state"]
    runs.assert_same(codebooks(average), codebooks(raw))
    assert not any(average[name].equal(raw[name]) for name in raw if name.endswith("weight"))

    exported = parts.load_vqvae(str(folder / "pipeline"), "model.vqvae_path")
    runs.assert_same(dict(exported.state_dict()), {name.removeprefix("vqvae."): one for name, one in average.items()})
    assert list(exported.config.scales) == list(content["scales"].values())
    settings = json.loads((folder / "pipeline" / parts.SETTINGS_FILE).read_text())
    assert settings["sample_rate"] == RATE and settings["window"] == WINDOW
    exported.save_pretrained(tmp_path / "again")  # as the stages low and up do
    assert type(exported).from_pretrained(tmp_path / "again").config.scales == exported.config.scales


def test_validation_leaves_the_codebooks_alone(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """Before the first step they are empty; the first batch fills them."""
    logged: list[dict[str, float]] = []

    def log(logger: Any, metrics: dict[str, float], step: int) -> None:
        logged.append({**metrics, "step": step})

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", log)
    states: list[tuple[bool, float]] = []
    end = VqvaeTask.on_validation_epoch_end

    def remember(task: VqvaeTask) -> None:
        codebook: Any = task.vqvae.codebooks[0]
        states.append((bool(codebook.initialised), float(codebook.codes.abs().sum())))
        end(task)

    monkeypatch.setattr(VqvaeTask, "on_validation_epoch_end", remember)
    train(write(), "run", "train.max_steps=2")
    assert states[0] == (False, 0.0) and states[1][0] and states[1][1] > 0
    first, second = (one for one in logged if "val/loss" in one)
    assert first["step"] == 0 and np.isfinite([first["val/loss"], second["val/loss"]]).all()
    assert first["val_up/used"] == 1 and first["val_low/perplexity"] == 1
    assert second["val_up/used"] > 1 and second["val_low/perplexity"] > 1
    keys = {key for one in logged for key in one}
    assert {"train_up/l2", "train_low/spectral", "train_up/commitment", "codebook_low/entropy"} <= keys


def test_previews_show_both_levels(write: Callable[..., Path]):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(write(), "run", "train.max_steps=2")
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert {f"val_{level}/{number}" for level in ("up", "low") for number in range(2)} <= set(board.Tags()["audio"])
    assert "val/real_above_up_above_low" in board.Tags()["images"]


def test_two_processes_train_as_one(write: Callable[..., Path]):
    """Codes start from, and restart at, rows of the global batch."""
    path = write(max_steps=3, valid_interval=3, save_checkpoints_steps=3)
    two = last(train(path, "two", "train.devices=2", "train.strategy=ddp_fork"))
    one = last(train(path, "one", "train.batch_size=4"))
    assert two["callbacks"]["Position"] == one["callbacks"]["Position"] == {"batches": 6}
    for weights in ("state_dict", "current_model_state"):
        assert two[weights].keys() == one[weights].keys()
        for name, value in one[weights].items():
            torch.testing.assert_close(two[weights][name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert two["scales"] == one["scales"]


def test_decoders_alone_keep_the_tokens(write: Callable[..., Path]):
    config = write()
    first = train(config, "first", "train.max_steps=2") / "pipeline"
    options = (f"model.vqvae_path='{first}'", "model.vqvae.decoders_only=true", "model.vqvae.mel_weight=1")
    before, after = (
        parts.load_vqvae(str(folder), "model.vqvae_path").state_dict()
        for folder in (first, train(config, "second", *options) / "pipeline")
    )
    changed = {name for name, weight in before.items() if not weight.equal(after[name])}
    assert changed and all(name.startswith("decoders.") for name in changed)
    assert {name for name, weight in before.items() if name.startswith("decoders.")} == changed


def test_silent_sounds_are_one_clear_line(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]):
    arguments = ["--config", str(write()), "dataset=[silence]"]
    assert cli.run(bins_train.main, arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1 and "silence" in error[0]
