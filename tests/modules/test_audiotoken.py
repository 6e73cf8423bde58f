"""Pooling, embedder, injection and losses give the official numbers on the official names."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sonolume.modules.audiotoken import (
    PLACEHOLDER_ID,
    AttentionPooling,
    AudioTokenEmbedder,
    dropout_mask,
    inject,
    label_vector,
    token_losses,
    tokenise,
)

FOLDER = Path(__file__).parents[1] / "goldens" / "audiotoken"
WORDS = ["a", "photo", "of", "dog", ",", "4k", "high"]


def table(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"keys_{name}.json").read_text())


def weights(goldens: SimpleNamespace, name: str) -> dict[str, Tensor]:
    shapes = table(name)["keys"].items()
    return {key: goldens.value_for(key, tuple(shape)) for key, shape in shapes if not key.endswith("position_ids")}


def arrays(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(array) for key, array in np.load(FOLDER / f"{name}.npz").items()}


def tokenizer() -> CLIPTokenizer:
    """Whole words of `WORDS`, else letters."""
    letters = [chr(code) for code in range(33, 127)]
    merges, vocab = [], {}
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = ["".join(parts[:2])]
    for token in [*letters, *(f"{c}</w>" for c in letters), *("".join(m) for m in merges)]:
        vocab.setdefault(token, len(vocab))
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    return CLIPTokenizer(vocab, list(dict.fromkeys(merges)), model_max_length=16)


def text_encoder(size: int, width: int = 8) -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=size - 2, eos_token_id=size - 1,
    )  # fmt: skip
    return CLIPTextModel(config).eval().requires_grad_(False)


def test_pooling_is_the_official_one_without_its_dropout(goldens: SimpleNamespace):
    pooling = AttentionPooling(32).eval()
    pooling.load_state_dict(weights(goldens, "fga"))
    wanted, u = arrays("fga"), goldens.input_for("fga.u", (3, 48, 32))
    goldens.assert_close(pooling(u), wanted["pooled"], 1e-6)
    goldens.assert_close(pooling(u[:, :1]), wanted["pooled_len1"], 1e-6)
    assert (wanted["pooled"] - wanted["pooled_official_eval_seed0"]).abs().max() > 1e-2
    pooling.train()
    assert not pooling(u).allclose(pooling(u))


def test_the_seed_of_an_item_decides_its_dropout_in_any_batch():
    torch.manual_seed(0)
    pooling, u = AttentionPooling(8).train(), torch.randn(3, 5, 8)
    together = pooling(u, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(pooling(u[1:2], torch.tensor([2])), together[1:2])
    assert not pooling(u[1:2], torch.tensor([4])).allclose(together[1:2])
    hidden = torch.ones(1, 400, 50)
    mask = dropout_mask(torch.tensor([7]), hidden, 0.25)
    assert mask.unique().tolist() == pytest.approx([0, 4 / 3]) and mask.mean().item() == pytest.approx(1, abs=0.02)
    assert pooling.eval()(u, torch.tensor([1, 2, 3])).equal(pooling(u))


@pytest.mark.parametrize("width", [768, 1024])
def test_the_real_embedder_has_the_official_names(width: int):
    official = table(f"embedder_{width}")["keys"]
    with torch.device("meta"):
        embedder = AudioTokenEmbedder(2304, width)
    assert {name: list(weight.shape) for name, weight in embedder.state_dict().items()} == official
    count = sum(weight.numel() for weight in embedder.parameters())
    assert count == {768: 8_853_507, 1024: 10_820_867}[width]


def test_the_embedder_comes_back_from_its_folder(goldens: SimpleNamespace, tmp_path: Path):
    embedder = AudioTokenEmbedder(96, 32).eval()
    embedder.load_state_dict(weights(goldens, "embedder_small"))
    x = goldens.input_for("embedder.x", (2, 5, 96))
    u = torch.nn.functional.gelu(x @ embedder.fc1.weight.T + embedder.fc1.bias) @ embedder.fc2.weight.T
    goldens.assert_close(embedder(x), embedder.fga(u + embedder.fc2.bias), 1e-6)
    embedder.save_pretrained(tmp_path)
    again: Any = AudioTokenEmbedder.from_pretrained(tmp_path)
    assert again.eval()(x).equal(embedder(x))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_injection_equals_the_official_modified_encoder(goldens: SimpleNamespace, act: str):
    config = table(f"clip_{act}")["config"]
    model = CLIPTextModel(CLIPTextConfig(**config)).eval().requires_grad_(False)
    filled = {name.removeprefix("text_model."): value for name, value in weights(goldens, f"clip_{act}").items()}
    model.load_state_dict(filled)
    wanted, audio = arrays("clip_text"), goldens.input_for("clip.audio", (2, 32)).requires_grad_()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    output = inject(model, wanted["ids"].masked_fill(wanted["ids"] == 49408, PLACEHOLDER_ID), audio[:, None])
    goldens.assert_close(output.last_hidden_state, wanted[f"hidden_{act}"], 1e-5)
    goldens.assert_close(output.pooler_output, wanted[f"pooled_{act}"], 1e-5)
    (output.last_hidden_state * goldens.input_for("clip.probe", (2, 77, 32))).sum().backward()
    goldens.assert_close(audio.grad, wanted[f"grad_audio_{act}"], 2e-5)  # type: ignore[arg-type]
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert not model.get_input_embeddings()._forward_hooks


def test_tokens_are_those_of_an_added_word():
    plain, added = tokenizer(), tokenizer()
    added.add_tokens("<*>")
    number = added.convert_tokens_to_ids("<*>")
    for prompt in ("a photo of <*>, 4k", "<*> a dog", "<*>", "a<*>of", "<*> <*>, high"):
        wanted = added(prompt, padding="max_length", max_length=16, return_tensors="pt").input_ids[0]
        assert tokenise(plain, [prompt])[0].equal(wanted.masked_fill(wanted == number, PLACEHOLDER_ID)), prompt
    assert len(plain) == len(added) - 1


def test_several_placeholders_take_their_vectors_in_order():
    words = tokenizer()
    model = text_encoder(len(words))
    ids = tokenise(words, ["a <*> of <*>"])
    first, second = torch.randn(2, 1, 8)
    both = torch.stack([first, second], dim=1)
    read = inject(model, ids, both).last_hidden_state
    assert not read.allclose(inject(model, ids, both.flip(1)).last_hidden_state)
    same = inject(model, ids, torch.stack([first, first], dim=1)).last_hidden_state
    torch.testing.assert_close(inject(model, ids, first[:, None]).last_hidden_state, same)


@pytest.mark.parametrize("count", [2, 3])
def test_a_placeholder_stands_for_all_tokens_of_a_sound(count: int):
    """Each word takes the tokens of one sound, or of the only one; its ids stand where `count` words would."""
    words = tokenizer()
    model = text_encoder(len(words))
    ids = tokenise(words, ["a <*> of <*>"], count)
    assert ids.equal(tokenise(words, [f"a {'<*> ' * count}of {'<*> ' * count}"]))
    first, second = torch.randn(2, 1, count, 8).unbind()
    read = inject(model, ids, torch.cat([first, second], dim=1), count).last_hidden_state
    assert read.equal(inject(model, ids, torch.cat([first, second], dim=1)).last_hidden_state)
    assert not read.allclose(inject(model, ids, torch.cat([second, first], dim=1), count).last_hidden_state)
    once = inject(model, ids, first, count).last_hidden_state
    assert once.equal(inject(model, ids, torch.cat([first, first], dim=1), count).last_hidden_state)
    with pytest.raises(ValueError, match=f"{2 * count} placeholders for {3 * count} vectors"):
        inject(model, ids, torch.zeros(1, 3 * count, 8), count)
    with pytest.raises(ValueError, match=f"{2 * count + 1} placeholders for {count} vectors"):
        inject(model, tokenise(words, ["<*> " * (2 * count + 1)]), first, count)


def test_prompts_of_a_batch_may_repeat_a_sound_differently():
    words = tokenizer()
    model = text_encoder(len(words))
    prompts, tokens = ["a <*>", "<*> of <*>"], torch.randn(2, 2, 8)
    states = inject(model, tokenise(words, prompts, 2), tokens, 2).last_hidden_state
    for number, prompt in enumerate(prompts):
        alone = inject(model, tokenise(words, [prompt], 2), tokens[number : number + 1], 2).last_hidden_state
        torch.testing.assert_close(states[number], alone[0])


def test_the_embedding_of_a_word_in_place_of_the_word_changes_nothing():
    words = tokenizer()
    model = text_encoder(len(words))
    dog = words("dog", add_special_tokens=False).input_ids[0]
    vector = model.get_input_embeddings().weight[dog].view(1, 1, -1)
    wanted = model(words(["a photo of dog, 4k"], padding="max_length", return_tensors="pt").input_ids)
    got = inject(model, tokenise(words, ["a photo of <*>, 4k"]), vector)
    assert got.last_hidden_state.equal(wanted.last_hidden_state)


def test_prompts_that_do_not_fit_are_refused():
    words = tokenizer()
    model = text_encoder(len(words))
    with pytest.raises(ValueError, match="<\\*>"):
        tokenise(words, ["a dog"])
    with pytest.raises(ValueError, match="15 tokens"):
        tokenise(words, ["a " * 14 + "<*>"])
    assert (tokenise(words, ["a " * 13 + "<*>"]) == PLACEHOLDER_ID).sum() == 1
    ids = tokenise(words, ["a <*> of <*>"])
    with pytest.raises(ValueError, match="2 placeholders for 3 vectors"):
        inject(model, ids, torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="width 8 cannot take"):
        inject(model, ids, torch.zeros(1, 1, 9))


def test_losses_are_the_official_formulas(goldens: SimpleNamespace):
    wanted = arrays("loss")
    token, label = (goldens.input_for(f"loss.{name}", (4, 32), 0.3) for name in ("audio", "label"))
    found = token_losses(token, label)
    for name, value in zip(("l1", "l2", "cos"), found, strict=True):
        torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=0)
    mse = torch.nn.functional.mse_loss(
        goldens.input_for("loss.pred", (4, 4, 8, 8)), goldens.input_for("loss.target", (4, 4, 8, 8))
    )
    a, b, c = wanted["lambdas"].float()
    torch.testing.assert_close(mse + a * found.l1 + b * found.l2 + c * found.classification, wanted["total"])


def test_two_halves_of_a_batch_have_the_gradient_of_the_whole():
    """Averaged, as several processes do it."""
    label, token = torch.randn(2, 4, 8)
    whole = token.clone().requires_grad_()
    token_losses(whole, label).classification.backward()
    mean = torch.cosine_similarity(token, label).mean()
    halves = token.clone().requires_grad_()
    for half in (slice(0, 2), slice(2, 4)):
        (token_losses(halves[half], label[half], lambda _: mean).classification / 2).backward()
    torch.testing.assert_close(halves.grad, whole.grad)


def test_a_label_is_the_mean_of_its_words_and_none_has_no_gradient():
    words = tokenizer()
    model = text_encoder(len(words))
    ids = words("dog, 4k", add_special_tokens=False).input_ids
    assert len(ids) == 4  # digits stand alone
    wanted = model.get_input_embeddings().weight[ids].mean(dim=0)
    torch.testing.assert_close(label_vector("dog, 4k", words, model), wanted)
    for nothing in (None, " "):
        assert label_vector(nothing, words, model).eq(0).all()
    token = torch.randn(2, 8, requires_grad=True)
    token_losses(token, torch.stack([wanted, torch.zeros(8)])).classification.backward()
    assert token.grad is not None and token.grad[0].any() and not token.grad[1].any()
