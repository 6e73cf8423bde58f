"""A training step on cached features and the seed's way: pytest -m benchmark -s tests/benchmarks/test_training_step.py

What each side does, and that it is the same work, is in training_step.py. Each runs in a process of its own, one after
the other, so peak memory is a side's own. Weights and clips are random; captions have 20 tokens (bytes here), about as
many as a batch of AudioCaps captions is padded to.

Where our step goes, by torch.profiler (latent 4x5x39, float32, batch 2, one thread of a CPU with 73 GFLOP/s in matrix
products and 81 in 3x3 convolutions; 84 GFLOP a clip, so the floor of a step is 2.2 s, and 2.6 s with AdamW, which waits
for memory; measured 5.1 s, and 7.0 s at batch 4 with a floor of 4.8 s):

    convolutions, backward                48 %
    convolutions, forward                 13 %
    matrix products                       27 %
    AdamW and zero_grad                    6 %
    copies: copy_, cat                   0.6 %
    norms, activations, softmax, Python    5 %
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SIZES = {"4x5x39": 1.8, "4x10x78": 1.5}  # latent -> the goal for the ratio of seconds
BATCHES = {"cpu": 4, "cuda": 12}  # clips; 12 as published
STEPS = 3  # the first is not counted
FRAMES, BANDS = 624, 80
TOLERANCE = {"32-true": 2e-4, "bf16-mixed": 1.5e-3}  # of the first loss, relative; another caption moves it by 3e-3


def write_data(folder: Path, clips: int) -> None:
    """Noisy mels and captions of 19 letters (and the end token)."""
    import numpy as np

    random = np.random.default_rng(0)
    (folder / "noise/mel").mkdir(parents=True)
    for split, count in (("train", clips), ("valid", 1)):
        rows = [{"Uid": f"{split}{i}", "Caption": [f"a noise number {i:04d}"]} for i in range(count)]
        (folder / "noise" / f"{split}.json").write_text(json.dumps(rows))
        for row in rows:
            mel = random.normal(random.uniform(-8, -2), 2, (BANDS, FRAMES)).astype(np.float32)
            np.save(folder / "noise/mel" / f"{row['Uid']}.npy", mel)


@pytest.fixture(scope="session")
def device() -> str:
    """What training_step.py will run on."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def parts_folder(
    device: str,
    tmp_path_factory: pytest.TempPathFactory,
    build_vae: Callable[..., Any],
    build_text_encoder: Callable[..., Any],
) -> Path:
    """Frozen parts of the published size with random weights, and data."""
    import torch
    from transformers import ByT5Tokenizer

    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    build_text_encoder().save_pretrained(folder / "text")
    ByT5Tokenizer().save_pretrained(folder / "text")
    for size in SIZES:
        build_vae(size).save_pretrained(folder / size)
    write_data(folder / "data", BATCHES[device])
    return folder


def write_config(parts: Path, size: str, precision: str, batch: int, path: Path) -> Path:
    config = {
        "recipe": "tta/audioldm", "exp_name": "benchmark", "log_dir": str(path.parent), "dataset": ["noise"],
        "preprocess": {"processed_dir": str(parts / "data"), "frames": FRAMES, "cond_mask_prob": 0.0},
        "model": {
            "autoencoder_path": str(parts / size), "text_encoder": str(parts / "text"), "latent_scale": "1.0",
            "audioldm": {"use_checkpoint": False},  # the published 400 M
        },
        "train": {"batch_size": batch, "max_steps": STEPS, "precision": precision, "num_workers": 0},
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


def run(side: str, config: Path) -> str:
    script = Path(__file__).with_name("training_step.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), side, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.benchmark
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_training_step(
    size: str, precision: str, device: str, parts_folder: Path, tmp_path: Path, print_table: Callable[..., None]
) -> None:
    config = write_config(parts_folder, size, precision, BATCHES[device], tmp_path / "config.json")
    run("cache", config)
    sides = {side: json.loads(run(side, config)) for side in ("seed", "ours")}
    assert sides["ours"]["loss"] == pytest.approx(sides["seed"]["loss"], rel=TOLERANCE[precision])
    seconds = {side: min(result["seconds"][1:]) for side, result in sides.items()}  # noise only adds
    print(f"\n{json.dumps(sides)}")
    updates = {side: min(result["updates"][1:]) for side, result in sides.items()}
    rows = [
        [side, f"{seconds[side]:.2f}", f"{updates[side]:.2f}", f"{result['memory']:.2f}", f"{result['loss']:.5f}"]
        for side, result in sides.items()
    ]
    ratio, faster = seconds["seed"] / seconds["ours"], updates["seed"] / updates["ours"]
    rows.append(["seed / ours", f"{ratio:.2f}x (goal {SIZES[size]}x)", f"{faster:.2f}x", "", ""])
    where = "one CPU thread, processor seconds" if device == "cpu" else f"{device}, wall seconds"
    title = f"training step, latent {size}, published size, {precision}, batch {BATCHES[device]}, {where}"
    print_table(title, ["", "s per step", "of it AdamW", "peak GiB", "first loss"], rows)
