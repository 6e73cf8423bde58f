"""The miniature HuBERT: a stock folder that spells the speech of the miniature world."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, HubertForCTC, HubertModel

from sonolume.config.load import load_config
from sonolume.config.mini.hubert import AugmentationConfig, Config
from sonolume.models.mini import hubert as recipe
from sonolume.models.mini.hubert import IGNORED, Task, augment, batch_of, build_processor, load_recogniser, spelling
from sonolume.models.training import Frozen
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.preprocessors.miniworld.voice import TEST_VOICES

SMALL = ["model.conv_dim=[4,4,4,4,4,4,4]", "model.hidden_size=16", "model.intermediate_size=16",
         "model.num_hidden_layers=1", "model.num_attention_heads=2"]  # fmt: skip
CAPTIONS = 8


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "hubert"


@pytest.fixture(scope="module")
def config(root: Path) -> Config:
    return load_config(root / "egs" / "mini" / "hubert.json", SMALL)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "letters"),
    [("A dog's bell.", "A DOGS BELL"), ("rain, then 2 dogs", "RAIN THEN TWO DOGS"), ("high-pitched", "HIGH PITCHED")],
)
def test_the_spelling_of_a_text_has_letters_and_spaces_only(text: str, letters: str) -> None:
    assert spelling(text) == letters
    processor = build_processor()
    ids = processor.tokenizer(letters).input_ids
    assert processor.decode(ids, group_tokens=False) == letters and processor.tokenizer.pad_token_id == 0


def test_batches_are_padded_and_labels_of_padding_are_ignored() -> None:
    random = np.random.default_rng(0)
    waves = [random.normal(0, 0.1, count).astype(np.float32) for count in (1600, 3200)]
    batch = batch_of(build_processor(), waves, ["a bell rings", "rain"])
    assert batch.waves.shape == batch.mask.shape == (2, 3200)
    assert batch.mask.sum(dim=1).tolist() == [1600, 3200] and not batch.waves[0, 1600:].any()
    assert abs(float(batch.waves[1].std(correction=0)) - 1) < 1e-3
    assert (batch.labels[1] == IGNORED).sum() == len("A BELL RINGS") - len("RAIN")


def test_augmentation_changes_the_speed_and_adds_noise() -> None:
    wave = np.sin(np.arange(16000) / 20).astype(np.float32)
    same = augment(wave, AugmentationConfig(speed=0.0, noise=0.0), np.random.default_rng(0))
    np.testing.assert_allclose(same, wave, atol=1e-6)
    changed = augment(wave, AugmentationConfig(speed=0.1, noise=0.02), np.random.default_rng(0))
    assert len(changed) != len(wave) and 16000 / 1.1 <= len(changed) <= 16000 / 0.9 and changed.dtype == np.float32


def test_the_exported_folder_is_opened_by_stock_classes(config: Config, tmp_path: Path) -> None:
    Task(config, Frozen()).export(tmp_path)
    model, processor = HubertForCTC.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    inputs = processor(wave, sampling_rate=16000, return_tensors="pt")
    assert model(inputs.input_values).logits.shape == (1, 49, len(processor.tokenizer))
    assert HubertModel.from_pretrained(tmp_path).config.hidden_size == 16
    assert isinstance(load_recogniser(tmp_path).transcribe([wave, wave[:8000]])[1], str)


def test_a_step_learns(config: Config) -> None:
    torch.manual_seed(0)
    task = Task(config, Frozen())
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    batch = batch_of(task.processor, [wave, wave[:12000]], ["a bell", "rain"])
    optimizer = torch.optim.AdamW(task.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        loss = task(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_the_shipped_part_spells_unseen_voices_and_wordings(shipped: Path) -> None:
    """At most 15 % of the letters are wrong; random weights get nearly all wrong."""
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) <= 1.2e6
    assert {weight.dtype for weight in load_file(shipped / "model.safetensors").values()} == {torch.float16}
    assert isinstance(json.loads((shipped / "config.json").read_text())["world"], int)
    spoken = [utterances(scene, 1, "test", mention=1.0)[0] for scene in world.scenes("test", CAPTIONS, seed=5)]
    assert {one.voice for one in spoken} == set(TEST_VOICES)
    waves, recogniser = [one.render() for one in spoken], load_recogniser(shipped)
    wrong, total = recipe.wrong_letters(recogniser, waves, spoken).sum(dim=0)
    assert wrong <= 0.15 * total
    random, total = recipe.wrong_letters(recipe.untrained(recogniser), waves, spoken).sum(dim=0)
    assert random > 0.6 * total
