"""A training step with cached text states, and one that encodes the texts: pytest -m benchmark -s <this file>

The frozen text encoder has Stable Diffusion 1's size (12 layers of width 768, 48 tokens) with random weights, the batch
is the published one, 8 sounds of 3.775 s, in float32 on one thread. The trained encoder is smaller than the published
one (6 layers of width 256 instead of 24 of 1024), which a CPU hardly trains; the last rows say what the ratio is at
published size. Both sides take the same items and weights (the learning rate is 0), turn by turn, so that they have the
same loss and the same load of the machine. Then the disk that each way needs for FSD50K.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BATCH, SECONDS, STEPS = 8, 3.775, 4  # the first step of each side is not counted
FEATURES, STATES, TOKENS = 188, 47, 48  # of 3.775 s
SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
NEGATIVES = 256  # texts
CLIPS = 40966  # in FSD50K's development set
LABEL_TEXTS = 3000  # distinct texts of its labels: an assumption, each needs 72 kB (width 768) or 96 kB (1024)


def stable_diffusion(folder: Path) -> None:
    """Write the text encoder of Stable Diffusion 1 with a vocabulary of letters; training reads nothing else of it."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(vocabulary, [], model_max_length=77, pad_token=words[-1]).save_pretrained(folder / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        bos_token_id=len(words) - 2, eos_token_id=len(words) - 1, pad_token_id=len(words) - 1,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The task as it is in a training on random sounds."""
    import numpy as np
    import torch

    from sonolume.config.load import load_config
    from sonolume.models import training
    from sonolume.utils import audio

    folder = tmp_path_factory.mktemp("audio2img")
    stable_diffusion(folder / "sd")
    random, rows = np.random.default_rng(0), []
    for uid in (chr(ord("a") + number) for number in range(BATCH)):
        audio.save_wav(folder / f"data/noise/audio/{uid}.wav", random.normal(0, 0.1, int(SECONDS * 16000)), 16000)
        rows.append({"Uid": uid, "Audio": f"audio/{uid}.wav", "Caption": f"noise {uid}", "Duration": SECONDS})
    for split in ("train", "valid"):
        (folder / f"data/noise/{split}.json").write_text(json.dumps(rows))
    content = {
        "recipe": "a2i/audio2img", "exp_name": "run", "log_dir": str(folder), "dataset": ["noise"],
        "preprocess": {"processed_dir": str(folder / "data"), "input_length": SECONDS},
        "model": {"stable_diffusion": str(folder / "sd"), "wav2vec2_bert": "", "encoder": SMALL,
                  "gradient_checkpointing": False},
        "train": {"batch_size": BATCH, "num_workers": 0, "accelerator": "cpu"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    torch.set_num_threads(1)
    task, data = training.build(load_config(folder / "config.json"))
    loaders = SimpleNamespace(data=data)
    task.trainer = SimpleNamespace(training=True, world_size=1, datamodule=loaders)  # type: ignore[assignment]
    task.on_fit_start()
    return task


def one_step(task: Any, adam: Any, encode_texts: bool) -> tuple[float, float, float]:
    """Loss, processor seconds, and those of them that encode texts."""
    import torch

    from sonolume.models.a2i.audio2img.data import Tokens, encode

    data, start, seconds = task.trainer.datamodule.data, time.process_time(), 0.0
    batch = data.collate([data.train[0, index] for index in range(BATCH)])
    if encode_texts:
        before = time.process_time()
        texts = [data.train.texts[number] for number in batch.text]
        tokens = Tokens(texts, task.frozen["tokenizer"], TOKENS, uses_mask=True)
        with torch.no_grad():
            states = encode(task.frozen["text_encoder"], torch.stack([tokens[index] for index in range(BATCH)]))
        batch, seconds = batch._replace(states=states), time.process_time() - before
    loss = task.losses(batch)[1]["loss"]
    loss.backward()
    adam.step()
    adam.zero_grad()
    return loss.item(), time.process_time() - start, seconds


def multiplications(width: int) -> tuple[float, float]:
    """Those of a batch in the published encoder (a step with gradient checkpointing) and in the text encoder."""
    import torch
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    with torch.device("meta"):
        settings = Wav2Vec2BertConfig(add_adapter=True, num_adapter_layers=2, output_hidden_size=width)
        model = Wav2Vec2BertModel(settings)
    layers, adapter = (sum(weight.numel() for weight in part.parameters()) for part in (model.encoder, model.adapter))  # type: ignore[union-attr]
    halved = FEATURES / 2 + FEATURES / 4  # positions of both layers of the adapter, which are alike
    step = 4 * BATCH * (layers * FEATURES + adapter / 2 * halved)  # forward, again forward, and twice that backward
    return step, BATCH * TOKENS * 12 * (4 * width**2 + 2 * width * 4 * width)


@pytest.mark.benchmark
def test_audio2img_step(task: Any, print_table: Callable[..., None]) -> None:
    import torch

    adam = torch.optim.AdamW(task.encoder.parameters(), lr=0.0, weight_decay=0.0)
    found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    for _ in range(STEPS):
        for encode_texts, steps in found.items():
            steps.append(one_step(task, adam, encode_texts))
    losses = {side: steps[0][0] for side, steps in found.items()}
    assert losses[True] == pytest.approx(losses[False], rel=2e-3)  # states are kept in half precision
    quick, slow = (min(seconds for _, seconds, _ in found[side][1:]) for side in (False, True))
    texts = min(seconds for _, _, seconds in found[True][1:])
    rows = [["texts encoded", f"{slow:.2f}", f"{losses[True]:.5f}"], ["cached", f"{quick:.2f}", f"{losses[False]:.5f}"]]
    rows += [["encoded / cached", f"{slow / quick:.2f}x", ""], ["text encoder alone", f"{texts:.2f}", ""]]
    size = sum(weight.numel() for weight in task.encoder.parameters()) / 1e6
    title = f"audio2img training step, {BATCH} x {SECONDS} s, encoder of {size:.0f} M weights, processor seconds"
    print_table(title, ["", "s per step", "loss"], rows)
    step, text = multiplications(768)
    print(f"at published size, by multiplications: {step:.2e} in the encoder's step, {text:.2e} in the text encoder: "
          f"encoded / cached = {1 + text / step:.3f}x; with {NEGATIVES} further texts as negatives "
          f"{1 + (BATCH + NEGATIVES) / BATCH * text / step:.2f}x")  # fmt: skip


@pytest.mark.benchmark
def test_disk_of_the_states_of_fsd50k(task: Any, print_table: Callable[..., None]) -> None:
    """Per clip in float32 with the start state, as in the published notebook, against per distinct text in float16."""
    data = task.trainer.datamodule.data.train
    assert data.states.shape[1:] == (STATES, 768) and data.states.itemsize == 2
    assert data.features.shape[1:] == (FEATURES, 161) and data.features.itemsize == 2

    def row(name: str, *sizes: int) -> list[str]:
        size = 1
        for one in sizes:
            size *= one
        return [name, " x ".join(map(str, sizes)), f"{size / 1e9:.2f}"]

    rows = []
    for width in (768, 1024):
        rows.append(row(f"states per clip, width {width}", CLIPS, TOKENS, width, 4))
        rows.append(row("  per distinct text of the labels", LABEL_TEXTS, STATES, width, 2))
        rows.append(row("  if every clip has a text of its own", CLIPS, STATES, width, 2))
    rows += [row("features per clip", CLIPS, FEATURES, 160, 4), row("  with their mask", CLIPS, FEATURES, 161, 2)]
    print_table("disk for FSD50K", ["", "items x positions x values x bytes", "GB"], rows)
