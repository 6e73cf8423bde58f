"""Conditions, logits, losses and gradients of both priors equal the official ones."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from sonolume.modules.im2wav import official
from sonolume.modules.im2wav.conditioning import TimeTable, frame_index
from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.transformer import bits_per_token

NONE_KEPT = torch.zeros(2, dtype=torch.bool)


@torch.no_grad()
def test_low(im2wav: SimpleNamespace, low: LowPrior):
    golden, tokens = im2wav.golden("low_forward_small"), im2wav.low_tokens()
    condition, null = low.conditioner(*im2wav.video()), low.conditioner(*im2wav.video(), NONE_KEPT)
    for part, prefix in ((condition, ""), (null, "null_")):
        im2wav.assert_close(part.start[:, None], golden[f"{prefix}y_cond"], 1e-6)
        im2wav.assert_close(part.positions, golden[f"{prefix}x_cond"], 1e-6)
    logits, null_logits = low(tokens, *im2wav.video()), low.transformer(tokens, null)
    im2wav.assert_close(logits[0], golden["logits"], 2e-5)
    im2wav.assert_close(logits[1, ::8], golden["logits_b1"], 2e-5)
    im2wav.assert_close(null_logits[0, ::8], golden["null_logits"], 2e-5)
    im2wav.assert_close(bits_per_token(logits, tokens), golden["loss_bits"], 1e-5)
    im2wav.assert_close(bits_per_token(null_logits, tokens), golden["null_loss_bits"], 1e-5)


@torch.no_grad()
def test_up(im2wav: SimpleNamespace, up: UpPrior):
    golden, tokens = im2wav.golden("up_small"), im2wav.up_tokens()
    image, low_tokens = im2wav.picture()[0][:, 0], im2wav.low_tokens()[:1]
    condition = up.conditioner(image, low_tokens)
    im2wav.assert_close(condition.start[:, None], golden["y_cond"], 1e-6)
    im2wav.assert_close(condition.positions[:, ::8], golden["x_cond"], 1e-5)
    logits = up(tokens, image, low_tokens)
    im2wav.assert_close(logits[0, ::4], golden["logits"], 2e-5)
    im2wav.assert_close(bits_per_token(logits, tokens), golden["loss_bits"], 1e-5)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["low", "up"])
def test_gradients(im2wav: SimpleNamespace, request: pytest.FixtureRequest, name: str, recompute: bool):
    prior: LowPrior | UpPrior = request.getfixturevalue(name)
    prior.transformer.recompute = recompute
    images = im2wav.unit_vectors("im2wav.small.images", (2, 512))
    tokens = im2wav.low_tokens() if name == "low" else im2wav.up_tokens(2)
    inputs = im2wav.video() if name == "low" else (images, im2wav.low_tokens())
    loss = bits_per_token(prior(tokens, *inputs), tokens)
    prior.zero_grad()
    loss.backward()
    prior.transformer.recompute = False
    im2wav.assert_close(loss.detach(), im2wav.golden("train_small")[f"{name}_loss"], 1e-5)
    norms = im2wav.norms("train_small", f"{name}_grad_names", f"{name}_grad_norm")
    wanted = {official.rename(key): norm for key, norm in norms.items()}
    assert {key: _norm(weight) for key, weight in prior.named_parameters()} == pytest.approx(wanted, rel=1e-5)
    assert len(wanted) == {"low": 87, "up": 119}[name]


def _norm(weight: nn.Parameter) -> float:
    return 0.0 if weight.grad is None else float(weight.grad.norm())


def test_kept_clips_keep_their_images(im2wav: SimpleNamespace, low: LowPrior):
    keep = torch.tensor([False, True])
    mixed, kept = low.conditioner(*im2wav.video(), keep), low.conditioner(*im2wav.video())
    null = low.conditioner(*im2wav.video(), NONE_KEPT)
    assert torch.equal(mixed.start, torch.stack([null.start[0], kept.start[1]]))
    assert torch.equal(mixed.positions, torch.stack([null.positions[0], kept.positions[1]]))


def test_dropout_comes_from_the_seeds_of_the_clips(im2wav: SimpleNamespace, low: LowPrior):
    frames, times = im2wav.video()
    seeds, projection = torch.tensor([3, 4]), low.conditioner.start
    low.train()
    both = low.conditioner(frames, times, seeds=seeds)
    alone = low.conditioner(frames[1:], times[1:], seeds=seeds[1:])
    assert torch.equal(both.start, low.conditioner(frames, times, seeds=seeds).start)
    torch.testing.assert_close(both.start[1:], alone.start)
    torch.testing.assert_close(both.positions[1:], alone.positions)
    mean = projection(frames[:1].expand(500, -1, -1), torch.arange(500)).mean(dim=0)
    low.eval()
    torch.testing.assert_close(mean, projection(frames[0]), rtol=0, atol=0.1)
    assert not torch.equal(both.start, low.conditioner(frames, times, seeds=seeds).start)


def test_a_token_depends_only_on_earlier_ones(im2wav: SimpleNamespace, low: LowPrior):
    """And on every one of them that a pattern reaches, such as the first."""
    with torch.no_grad():
        condition, tokens = low.conditioner(*im2wav.video()), im2wav.low_tokens()
        before = low.transformer(tokens, condition)
        changed = tokens.clone()
        changed[:, 77] = (changed[:, 77] + 1) % 64
        moved = (low.transformer(changed, condition) != before).any(dim=-1).all(dim=0)
    assert not moved[:78].any() and moved[78:].all()


def test_frames_of_tokens(im2wav: SimpleNamespace):
    golden = im2wav.golden("misc")
    for frames in (1, 100, 122, 123):
        assert torch.equal(frame_index(2048, frames), golden[f"token2frame_{frames}"])


def test_bins_of_times():
    table = TimeTable(64, 0.0, 600.0, 64)
    table.table.weight.data = torch.eye(64)
    assert table(torch.tensor([0.0, 9.374, 9.375, 599.99])).argmax(dim=-1).tolist() == [0, 0, 1, 63]
    with pytest.raises(ValueError, match="600"):
        table(torch.tensor([600.0]))
    with pytest.raises(ValueError, match="-1"):
        table(torch.tensor([-1.0]))


def test_a_prior_without_null_vectors_refuses_guidance(im2wav: SimpleNamespace, up: UpPrior):
    with pytest.raises(ValueError, match="null"):
        up.conditioner(im2wav.picture()[0][:, 0], im2wav.low_tokens()[:1], NONE_KEPT[:1])


def test_half_precision_is_near(im2wav: SimpleNamespace, low: LowPrior):
    half = LowPrior.from_config(low.config).eval()
    half.load_state_dict(low.state_dict())
    half.to(torch.bfloat16)
    with torch.no_grad():
        logits: Tensor = half(im2wav.low_tokens(), *im2wav.video())
        wanted = low(im2wav.low_tokens(), *im2wav.video())
    assert logits.dtype == torch.float32
    assert float((logits - wanted).std() / wanted.std()) < 0.03
