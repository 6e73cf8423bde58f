"""The miniature CLIP text encoder: its tokenizer takes any text, and its states encode the events of a caption."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sonolume.config.load import load_config
from sonolume.models.mini import clip_text
from sonolume.models.mini.text_encoder import caption_losses, collate, slot_classes
from sonolume.models.training import Frozen
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.captions import caption, nouns, prompt
from sonolume.preprocessors.miniworld.scene import KINDS, Scene

STRANGE = ("Zebra ÜBER 漢字 🙂 x9", "  \n ", "it's 3<*>4 don't_stop", "a" * 300)


@pytest.fixture(scope="module")
def tokens() -> CLIPTokenizer:
    return clip_text.build_tokenizer(48)


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "pretrained" / "mini" / "stable_diffusion"


def test_every_word_of_the_world_is_one_token(tokens: CLIPTokenizer):
    for scene in world.scenes("test", 50, seed=2):
        text = world.captions(scene, 1, "test")[0].rstrip(".").lower()
        plain = text.replace(",", " ,").replace("-", " - ").split()
        assert len(tokens(text).input_ids) == len(plain) + 2, text


def test_texts_survive_the_round_trip(tokens: CLIPTokenizer):
    for text in ("a dog barks twice", *STRANGE):
        decoded = tokens.decode(tokens(text).input_ids, skip_special_tokens=True)
        assert "".join(decoded.split()) == "".join(text.lower().split())


def test_a_placeholder_becomes_one_token_inside_a_prompt(tokens: CLIPTokenizer):
    own = clip_text.build_tokenizer(48)
    assert own.add_tokens(["<*>"]) == 1
    ids = own("a photo of <*>").input_ids
    assert ids[:-2] == tokens("a photo of").input_ids[:-1] and ids[-2] == len(tokens)


def test_the_saved_folder_has_the_files_of_every_clip_tokenizer(tokens: CLIPTokenizer, tmp_path: Path):
    clip_text.save_tokenizer(tokens, tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    old = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=48)
    for text in ("a low bell, then rain.", *STRANGE):
        assert loaded(text).input_ids == old(text).input_ids == tokens(text).input_ids
    assert loaded.model_max_length == 48
    assert sorted(json.loads((tmp_path / "vocab.json").read_text()).values()) == list(range(len(tokens)))


def test_merges_are_those_of_the_words_and_reach_whole_words():
    assert clip_text.merges(["ab", "abc"]) == [("a", "b"), ("a", "b</w>"), ("ab", "c</w>")]
    assert clip_text.merges(["aba", "abz"])[0] == ("a", "b")


def test_prompts_name_the_kind():
    random = np.random.default_rng(0)
    for kind in KINDS:
        texts = {prompt(kind, random).lower() for _ in range(60)}
        assert len(texts) > 5 and all(any(noun in text for noun in nouns(kind)) for text in texts)
    assert "dog" in nouns("dog") and "a dog" in nouns("dog")


def test_training_writes_a_stock_folder(tmp_path: Path, root: Path):
    small = ["model.hidden_size=16", "model.num_hidden_layers=1", "model.intermediate_size=16"]
    config = load_config(root / "egs" / "mini" / "clip_text.json", small)
    torch.manual_seed(0)
    task = clip_text.Task(config, Frozen())
    scenes = [(caption(scene, np.random.default_rng(0)), scene) for scene in world.scenes("train", 8)]
    batch = collate(scenes, partial(clip_text.tokenize, tokenizer=task.tokenizer))
    assert batch.tokens.shape == (8, 48) and batch.mask.all()
    adam, losses = torch.optim.Adam(task.parameters(), 1e-2), []
    for _ in range(20):
        loss = torch.stack(list(caption_losses(task(batch), batch).values())).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    task.export(tmp_path / "out")
    model = CLIPTextModel.from_pretrained(tmp_path / "out")
    assert model.config.eos_token_id == CLIPTokenizer.from_pretrained(tmp_path / "out").eos_token_id
    torch.testing.assert_close(model(batch.tokens).last_hidden_state, task.encoder(batch.tokens).last_hidden_state)


def test_it_beats_its_random_twin_by_twenty_points(shipped: Path):
    """Which kind comes first and which second, predicted linearly from the mean state, in held-out wordings."""
    tokens = CLIPTokenizer.from_pretrained(shipped / "tokenizer")
    trained = CLIPTextModel.from_pretrained(shipped / "text_encoder").float().eval()
    torch.manual_seed(0)
    twin = CLIPTextModel(trained.config).eval()
    train, test = _then("valid", 700, held_out=False), _then("test", 400, held_out=True)
    right = [_probe(model, tokens, train, test) for model in (trained, twin)]
    assert right[0] > 0.85 and right[0] > right[1] + 0.2, right


def _then(split: str, count: int, held_out: bool) -> list[tuple[str, Scene]]:
    scenes = [scene for scene in world.scenes(split, count, seed=9) if scene.relation == "then"]
    return [(caption(scene, np.random.default_rng(scene.seed), held_out), scene) for scene in scenes]


@torch.no_grad()
def _probe(
    model: CLIPTextModel, tokens: CLIPTokenizer, train: list[tuple[str, Scene]], test: list[tuple[str, Scene]]
) -> float:
    """The share of captions of which ridge regression finds both kinds in their order."""
    features, truths = zip(*(_states(model, tokens, items) for items in (train, test)), strict=True)
    mean, scale = features[0].mean(0), features[0].std(0) + 1e-6
    x, x_test = ((states - mean) / scale for states in features)
    weights = torch.linalg.solve(x.mT @ x + 10 * torch.eye(x.shape[1]), x.mT @ truths[0].flatten(1))
    guessed = (x_test @ weights).unflatten(1, (2, -1)).argmax(-1)
    return float((guessed == truths[1].argmax(-1)).all(-1).float().mean())


def _states(model: CLIPTextModel, tokens: CLIPTokenizer, items: list[tuple[str, Scene]]) -> tuple[Tensor, Tensor]:
    """(N, D) and one-hot (N, 2, K)."""
    found = tokens([text for text, _ in items], padding="max_length", truncation=True, return_tensors="pt").input_ids
    states = torch.cat([model(chunk).last_hidden_state.mean(1) for chunk in found.split(64)])
    kinds = torch.tensor([slot_classes(scene)["kind"] for _, scene in items])
    return states, torch.nn.functional.one_hot(kinds, len(KINDS)).float()
