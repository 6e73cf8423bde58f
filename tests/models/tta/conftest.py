"""Fixtures of the vocoder's tests: half-second recordings, their features, and a tiny untrained vocoder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RATE, HOP, FRAMES, SEGMENT = 16000, 256, 32, 4
GENERATOR = {
    "upsample_rates": [16, 16], "upsample_kernel_sizes": [32, 32], "upsample_initial_channel": 8,
    "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3]],
}  # fmt: skip


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Glides with a little noise, from a quarter of a window to two windows long, at another rate than the mels'."""
    from sonolume.utils import audio

    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    for number in range(12):
        time = np.arange(round((0.15 + 0.08 * number) * 22050)) / 22050
        wave = 0.4 * np.sin(2 * np.pi * (300 + 40 * number) * time * (1 + time)) + random.normal(0, 0.01, time.shape)
        audio.save_wav(folder / f"glide{number}.wav", wave.astype(np.float32), 22050)
    return folder


@pytest.fixture(scope="session")
def processed(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data, two windows of each recording at most."""
    from sonolume.config.load import load_config
    from sonolume.config.options import PreprocessOptions
    from sonolume.models.tta.hifigan.data import preprocess

    folder = tmp_path_factory.mktemp("processed")
    content = {
        "recipe": "tta/hifigan", "exp_name": "run", "dataset": ["glides"], "model": {"hifigan": GENERATOR},
        "preprocess": {
            "processed_dir": str(folder), "frames": FRAMES, "windows": 2, "segment_size": SEGMENT * HOP,
            "valid_fraction": 0.2, "num_workers": 0,
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    preprocess(load_config(folder / "config.json"), PreprocessOptions(dataset="glides", input=sounds))
    return folder


@pytest.fixture
def make_config(processed: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a config whose runs go to tmp_path: make_config(section={key: value})."""

    def make(**sections: dict[str, Any]) -> Path:
        content = json.loads((processed / "config.json").read_text()) | {"log_dir": str(tmp_path)}
        content["preprocess"] |= sections.get("preprocess", {})
        model = {"discriminator": {"periods": [2, 3], "scales": 2, "width": 1 / 64}, "loss": {"disc_start": 2}}
        content["model"] |= model | sections.get("model", {})
        content["train"] = {
            "batch_size": 2, "max_steps": 8, "accumulate": 2, "ema_decay": 0.8, "save_checkpoints_steps": 4,
            "valid_interval": 4, "num_workers": 0, "accelerator": "cpu", "devices": 1, "gradient_clip": 10.0,
            "lr_decay": 0.9,
        } | sections.get("train", {})  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.fixture
def vocoder(tmp_path: Path) -> Path:
    import torch

    from sonolume.config.tta.hifigan import HifiGanConfig
    from sonolume.models.tta.hifigan import model
    from sonolume.modules.mel import MelSettings

    torch.manual_seed(0)
    model.save(model.build(HifiGanConfig(**GENERATOR), MelSettings()), tmp_path / "vocoder", MelSettings())
    return tmp_path / "vocoder"
