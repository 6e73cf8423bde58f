"""A training step on cached features, and one that recomputes them: pytest -m benchmark -s <this file>

BEATs and the embedder have their published sizes with random weights, 4 sounds of 5 s as published; text encoder, U-Net
and VAE are small, so the ratio is of all but Stable Diffusion, whose cost is equal on both sides. "Recomputed" is the
official way: BEATs and the VAE run in every step. The same items, random numbers and weights: the same loss.
"""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BATCH, LENGTH, STEPS = 4, 5.0, 3  # the first step is not counted
SIZE = 512, 320


def stable_diffusion(folder: Path) -> None:
    """Of CLIP-L's width, with a small U-Net and a small VAE of Stable Diffusion's factor 8."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: number for number, word in enumerate(words)}, [], model_max_length=77)
    text = CLIPTextConfig(vocab_size=len(words), hidden_size=768, num_hidden_layers=1, bos_token_id=len(words) - 2)
    unet = UNet2DConditionModel(
        block_out_channels=(16, 16), layers_per_block=1, cross_attention_dim=768, norm_num_groups=4,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 16, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """config(*overrides): on random sounds and pictures."""
    import json

    import numpy as np
    import torch
    from PIL import Image

    from sonolume.config.load import load_config
    from sonolume.modules.beats.beats import BEATs
    from sonolume.utils import audio

    folder = tmp_path_factory.mktemp("audiotoken")
    torch.manual_seed(0)
    BEATs().save_pretrained(folder / "beats")
    stable_diffusion(folder / "sd")
    random, rows = np.random.default_rng(0), []
    for uid in map(str, range(BATCH)):
        audio.save_wav(folder / f"data/noise/audio/{uid}.wav", random.normal(0, 0.1, int(LENGTH * 16000)), 16000)
        (folder / f"data/noise/frames/{uid}").mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)).save(
            folder / f"data/noise/frames/{uid}/still.png"
        )
        rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Image": f"frames/{uid}", "Duration": LENGTH})
    for split in ("train", "valid"):
        (folder / f"data/noise/{split}.json").write_text(json.dumps(rows))
    path = folder / "config.json"
    content = {
        "recipe": "a2i/audiotoken", "exp_name": "run", "log_dir": str(folder), "dataset": ["noise"],
        "preprocess": {"processed_dir": str(folder / "data"), "width": SIZE[0], "height": SIZE[1]},
        "model": {"stable_diffusion": str(folder / "sd"), "beats": str(folder / "beats"), "dropout": 0.0},
        "train": {"batch_size": BATCH, "num_workers": 0, "accelerator": "cpu"},
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return lambda *overrides: load_config(path, overrides)


def run(config: Any, recompute: bool) -> tuple[float, float]:
    """Loss of the first step, and processor seconds of the fastest of the others."""
    import torch

    from sonolume.models.a2i.audiotoken.data import training_data
    from sonolume.models.a2i.audiotoken.task import Task, load_frozen

    torch.set_num_threads(1)
    frozen = load_frozen(config)
    data, task = training_data(config, frozen), Task(config, frozen)
    task.trainer = SimpleNamespace(global_rank=0, world_size=1, training=True)  # type: ignore[assignment]
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    adam, losses, seconds = torch.optim.AdamW(task.embedder.parameters(), lr=0.0), [], []
    for _ in range(STEPS):
        start = time.process_time()
        batch = data.collate([data.train[0, index] for index in range(BATCH)])
        if recompute:
            train: Any = data.train
            pictures = torch.stack([train.images[index] for index in range(BATCH)])  # one of each clip
            with torch.no_grad():
                posterior = task.frozen["sd"].vae.encode(pictures).latent_dist
            batch = batch._replace(moments=torch.cat([posterior.mean, posterior.logvar], dim=1))
        loss = task.training_step(batch, 0)
        loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
        seconds.append(time.process_time() - start)
    return losses[0], min(seconds[1:])


@pytest.mark.benchmark
def test_audiotoken_step(config: Callable[..., Any], print_table: Callable[..., None]) -> None:
    ours, quick = run(config("preprocess.cache_features=true"), recompute=False)
    theirs, slow = run(config("preprocess.cache_features=false"), recompute=True)
    assert ours == pytest.approx(theirs, rel=2e-3)  # features and moments are kept in half precision
    rows = [["recomputed", f"{slow:.2f}", f"{theirs:.5f}"], ["cached", f"{quick:.2f}", f"{ours:.5f}"]]
    rows.append(["recomputed / cached", f"{slow / quick:.2f}x", ""])
    title = f"AudioToken training step, {BATCH} x {LENGTH:g} s, real BEATs and embedder, processor seconds"
    print_table(title, ["", "s per step", "loss"], rows)
