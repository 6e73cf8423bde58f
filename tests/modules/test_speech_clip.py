"""SpeechCLIP's networks and loss equal its official code and closed forms; both heads of s2i/wavy."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.modules.speech_clip import (
    LARGEST_SCALE,
    SequenceHead,
    SpeechEncoder,
    TokenHead,
    cls_output,
    masked_contrastive_loss,
    positions,
    weighted_sum,
)

SCALE = 1 / 0.07
CASES: dict[str, dict[str, Any]] = {  # case of loss.npz -> options
    "plain": {}, "close": {}, "ids": {"ids": "ids"}, "distinct_ids": {"ids": "distinct"},
    "dcl": {"decoupled": True}, "dcl_ids": {"ids": "ids", "decoupled": True}, "margin": {"ids": "ids", "margin": 0.2},
    "a2b": {"ids": "ids", "b_to_a": False}, "b2a": {"ids": "ids", "a_to_b": False}, "tau_1": {"scale": 1.0},
    "trainable": {"ids": "ids", "scale": "trained"},
}  # fmt: skip
OURS = {"self_att.model.": "pool.", "linear_proj.": "proj."}  # beginnings of official names -> those of SpeechEncoder


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def units(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(draw(*shape, seed=seed), dim=-1)


def stored(goldens: SimpleNamespace, name: str) -> dict[str, Tensor]:
    return goldens.golden(name, goldens.SPEECH2IMG)


def encoder(goldens: SimpleNamespace, **settings: Any) -> SpeechEncoder:
    """The network of parallel.npz in evaluation mode."""
    shapes = stored(goldens, "keys")["KW_ParallelBranch"]
    weights = {name: goldens.value_for(name, tuple(shape)) for name, shape in shapes.items()}
    model = SpeechEncoder(num_states=4, width=16, output_size=12, num_heads=4, ff_size=32, **settings).eval()
    for theirs, ours in OURS.items():
        weights = {name.replace(theirs, ours): weight for name, weight in weights.items()}
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and sorted(missing) == ["layer_weights", "logit_scale"]
    return model


# the loss


@pytest.mark.parametrize("case", CASES)
def test_the_loss_and_its_gradients_are_the_official_ones(goldens: SimpleNamespace, case: str):
    arrays = stored(goldens, "loss")
    options = dict(CASES[case])
    a, b = arrays["close" if case == "close" else "a"].requires_grad_(), arrays["b"].requires_grad_()
    numbers = {"ids": arrays["ids"], "distinct": torch.arange(6), None: None}[options.pop("ids", None)]
    scale, parameters = options.pop("scale", SCALE), [a, b]
    if scale == "trained":
        network: Any = SpeechEncoder(width=8, num_states=1)
        goldens.assert_close(network.logit_scale.detach(), arrays["trainable.temperature_param"], 1e-6)
        scale = network.scale
        parameters.append(network.logit_scale)
    goldens.assert_close(torch.as_tensor(scale).detach(), arrays[f"{case}.current_temperature"].to(torch.float32), 1e-5)
    loss = masked_contrastive_loss(a, b, scale, numbers, **options)
    goldens.assert_close(loss, arrays[f"{case}.loss"], 1e-5)
    gradients = torch.autograd.grad(loss, parameters)
    for name, found in zip(("grad_a", "grad_b", "grad_temperature"), gradients, strict=False):
        goldens.assert_close(found, arrays[f"{case}.{name}"], 1e-5)


def test_with_distinct_ids_it_is_the_cross_entropy_of_clip():
    a, b = units(8, 16), units(8, 16, seed=1)
    logits, targets = SCALE * a @ b.T, torch.arange(8)
    wanted = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    for ids in (None, 7 - targets):
        torch.testing.assert_close(masked_contrastive_loss(a, b, SCALE, ids), wanted)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("count", [1, 4])
def test_without_negatives_nothing_is_trained(decoupled: bool, count: int):
    """One recording, or one picture only: 0, and no gradient that is infinite or NaN."""
    a, b = units(count, 16).requires_grad_(), units(count, 16, seed=1)
    loss = masked_contrastive_loss(a, b, SCALE, torch.zeros(count), margin=0.2, decoupled=decoupled)
    loss.backward()
    assert loss.item() == 0 and a.grad is not None and not a.grad.any()


def test_chance_and_perfect_alignment():
    same = units(1, 16).expand(8, -1)
    assert masked_contrastive_loss(same, same, SCALE).item() == pytest.approx(math.log(8), rel=1e-5)
    aligned = torch.eye(8, 16)
    assert masked_contrastive_loss(aligned, aligned, 3.0).item() == pytest.approx(math.log(1 + 7 * math.exp(-3)))
    with pytest.raises(ValueError, match="at least one direction"):
        masked_contrastive_loss(same, same, SCALE, a_to_b=False, b_to_a=False)


def test_a_huge_scale_stays_finite():
    a, b = units(6, 16).requires_grad_(), units(6, 16, seed=1)
    for scale in (1e3, 1e6):
        loss = masked_contrastive_loss(a, b, scale, torch.tensor([0, 0, 1, 2, 3, 3]), decoupled=True)
        (gradient,) = torch.autograd.grad(loss, a)
        assert loss.isfinite() and gradient.isfinite().all()
    network = SpeechEncoder(width=8, num_states=1, temperature=1e-9)
    assert network.scale.item() == LARGEST_SCALE


def test_autocast_does_not_round_the_similarities():
    a, b = units(6, 16), units(6, 16, seed=1)
    wanted = masked_contrastive_loss(a, b, SCALE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = masked_contrastive_loss(a, b, SCALE)
    assert found.dtype == torch.float32 and found.equal(wanted)


# the encoder


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("case", ["zero_weights", "filled"])
def test_the_weighted_sum_is_the_official_one(goldens: SimpleNamespace, case: str, normalize: bool):
    arrays = stored(goldens, "weighted_sum")
    weights = arrays["weights"] if case == "filled" else torch.zeros(4)
    found = weighted_sum(list(arrays["x"]), weights, normalize)
    goldens.assert_close(found, arrays[f"{case}.norm_{normalize}"], 1e-6)
    network = SpeechEncoder(num_states=4, width=16, normalize_layers=normalize)
    network.layer_weights.data = weights
    goldens.assert_close(network.frames(arrays["x"].transpose(0, 1)).detach(), found, 1e-6)


@torch.no_grad()
def test_the_branch_is_the_official_one(goldens: SimpleNamespace):
    arrays, network = stored(goldens, "parallel"), encoder(goldens)
    summary = network.summarize(arrays["frames"], arrays["lens"])
    goldens.assert_close(summary, arrays["cls_hidden"], 1e-5)
    goldens.assert_close(network.proj(summary), arrays["out"], 1e-5)
    goldens.assert_close(network.encode_frames(arrays["frames"], arrays["lens"]), arrays["unit"], 1e-5)


@torch.no_grad()
def test_padding_has_no_influence(goldens: SimpleNamespace):
    """Neither other values in the padded frames, nor their number."""
    arrays, network = stored(goldens, "parallel"), encoder(goldens)
    frames, lengths = arrays["frames"].clone(), arrays["lens"]
    for row, length in enumerate(lengths):
        frames[row, length:] = 1e4 * draw(9 - int(length), 16)
    goldens.assert_close(network.encode_frames(frames, lengths), arrays["unit"], 1e-5)
    longer = torch.cat([frames, draw(3, 5, 16)], dim=1)
    goldens.assert_close(network.encode_frames(longer, lengths), arrays["unit"], 1e-5)
    alone = network.encode_frames(frames[1:2, :5], lengths[1:2])
    goldens.assert_close(alone, arrays["unit"][1:2], 1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_cls_position_alone_is_that_of_the_whole_layer(training: bool):
    """Also its gradients; in training without dropout."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True).train(training)
    x, padding = draw(3, 9, 16), torch.arange(9) >= torch.tensor([9, 5, 1])[:, None]
    found, gradients = [], []
    for forward in (lambda x: layer(x, src_key_padding_mask=padding)[:, 0], lambda x: cls_output(layer, x, padding)):
        inputs = x.clone().requires_grad_()
        output = forward(inputs)
        found.append(output)
        gradients.append(torch.autograd.grad(output.square().sum() + output.sum(), [inputs, *layer.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_several_layers_are_the_whole_transformer(training: bool):
    torch.manual_seed(0)
    network = SpeechEncoder(num_states=2, width=16, output_size=12, layers=3, num_heads=4, dropout=0.0).train(training)
    frames, lengths = draw(2, 6, 16), torch.tensor([6, 4])
    padding = torch.arange(7) > lengths[:, None]
    inputs = torch.cat([network.cls.expand(2, -1, -1), frames], dim=1)
    wanted = network.pool(inputs, src_key_padding_mask=padding)[:, 0]
    torch.testing.assert_close(network.summarize(frames, lengths), wanted, rtol=0, atol=1e-5)


def test_dropout_is_of_training_only_and_every_weight_is_trained():
    torch.manual_seed(0)
    network = SpeechEncoder(num_states=3, width=16, output_size=12, num_heads=4, image_size=10)
    states, lengths = draw(2, 3, 6, 16), torch.tensor([6, 4])
    assert not network.train()(states, lengths).equal(network(states, lengths))
    speech, pictures = network.eval()(states, lengths), network.project_images(draw(2, 10))
    assert speech.equal(network(states, lengths))
    for vectors in (speech, pictures):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2))
    masked_contrastive_loss(speech, pictures, network.scale).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in network.parameters())


def test_the_published_sizes():
    """Trained weights of the large and the base model, with the temperature."""
    with torch.device("meta"):
        large = SpeechEncoder()
        base = SpeechEncoder(13, 768, 512, normalize_layers=False)
    assert sum(weight.numel() for weight in large.parameters()) == pytest.approx(13.39e6, rel=1e-3)
    assert sum(weight.numel() for weight in base.parameters()) == pytest.approx(7.48e6, rel=1e-3)


@torch.no_grad()
def test_bfloat16_autocast_is_close(goldens: SimpleNamespace):
    network = encoder(goldens)
    states, lengths = draw(3, 4, 9, 16), torch.tensor([9, 5, 7])
    wanted = network(states, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(states, lengths)
    assert F.cosine_similarity(found.float(), wanted).min() > 0.999


# the heads


@pytest.mark.parametrize("count", [1, 4, 8])
def test_tokens_have_the_norm_of_embeddings_at_the_start(count: int, tmp_path: Path):
    torch.manual_seed(0)
    head: Any = TokenHead(input_size=48, output_size=32, num_tokens=count, norm=0.38)
    tokens = head(units(64, 48))
    assert tokens.shape == (64, count, 32)
    assert tokens.norm(dim=-1).mean().item() == pytest.approx(0.38, rel=0.1)
    head.save_pretrained(tmp_path)
    again: Any = TokenHead.from_pretrained(tmp_path)
    assert again(units(2, 48)).equal(head(units(2, 48)))


def sequence_head(**settings: Any) -> Any:
    torch.manual_seed(0)
    return SequenceHead(input_size=16, output_size=12, num_states=5, width=8, layers=2, num_heads=2, **settings).eval()


@torch.no_grad()
def test_padding_has_no_influence_on_the_states():
    head = sequence_head()
    frames, lengths = draw(2, 9, 16), torch.tensor([9, 4])
    states = head(frames, lengths)
    assert states.shape == (2, 5, 12)
    frames[1, 4:] = 1e4 * draw(5, 16, seed=1)
    torch.testing.assert_close(head(frames, lengths), states, rtol=0, atol=1e-5)
    torch.testing.assert_close(head(frames[1:, :4], lengths[1:]), states[1:], rtol=0, atol=1e-5)
    assert not head(frames, torch.tensor([9, 5]))[1].allclose(states[1], atol=1e-3)
    assert not head(frames.flip(1), lengths)[0].allclose(states[0], atol=1e-3)  # the order of the frames counts


def test_every_weight_of_the_sequence_head_is_trained(tmp_path: Path):
    head = sequence_head(dropout=0.0)
    head(draw(2, 9, 16), torch.tensor([9, 4])).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in head.parameters())
    head.save_pretrained(tmp_path)
    again: Any = SequenceHead.from_pretrained(tmp_path)
    frames, lengths = draw(2, 9, 16), torch.tensor([9, 4])
    torch.testing.assert_close(again.eval()(frames, lengths), head(frames, lengths))


def test_positions_are_distinct_for_any_width():
    for width in (7, 8):
        found = positions(500, width)
        assert found.shape == (500, width) and found.abs().max() <= 1
        assert torch.cdist(found, found).fill_diagonal_(1).min() > 1e-3
