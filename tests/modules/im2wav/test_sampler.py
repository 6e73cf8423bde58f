"""Sampled tokens and their logits equal the official ones; draws follow the softmax and belong to their clip."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.sampler import CHUNK_STEPS, TokenSampler, TokenSampling, filter_logits
from sonolume.modules.im2wav.transformer import Condition, TokenTransformer

GREEDY = TokenSampling(temperature=0, guidance=3.0)


def tiny(positions: int = 8, init_scale: float = 40.0) -> TokenTransformer:
    torch.manual_seed(0)
    transformer = TokenTransformer(codes=16, positions=positions, width=8, depth=3, heads=2, blocks=2,
                                   attention_ratio=1.0, mlp_ratio=1.0, init_scale=init_scale)  # fmt: skip
    return transformer.requires_grad_(False)


def condition_for(transformer: TokenTransformer, count: int, seed: int = 0) -> Condition:
    random, (positions, width) = torch.Generator().manual_seed(seed), transformer.places.shape
    return Condition(
        torch.randn(count, width, generator=random), torch.randn(count, positions, width, generator=random)
    )


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(
    transformer: TokenTransformer, condition: Condition, null: Condition | None, prefix: Tensor | None, stop: int
) -> tuple[Tensor, Tensor]:
    """The most likely tokens (B, stop), and the guided logits (steps, K) of the first clip."""
    sampler = TokenSampler(transformer, len(condition.start), GREEDY if null else TokenSampling(temperature=0))
    sampler.start(*([condition, null] if null else [condition]), prefix=prefix)
    logits = []
    for _ in range(int(sampler.position), stop):
        sampler.step()
        logits.append(sampler.logits[0].clone())
    return sampler.tokens[:, :stop], torch.stack(logits)


@pytest.mark.parametrize("case", ["video", "primed", "image"])
@torch.no_grad()
def test_low(im2wav: SimpleNamespace, low: LowPrior, case: str):
    golden = im2wav.golden("low_sample_small")
    inputs = im2wav.picture() if case == "image" else im2wav.video()
    null = low.conditioner(*inputs, torch.zeros(len(inputs[0]), dtype=torch.bool))
    prefix = im2wav.low_tokens()[:, :100] if case == "primed" else None
    tokens, logits = sample(low.transformer, low.conditioner(*inputs), null, prefix, 256)
    assert torch.equal(tokens, golden[f"{case}_tokens"])
    im2wav.assert_close(logits[::4], golden[f"{case}_logits"], 1e-4)


@pytest.mark.parametrize("case", ["", "primed_"])
@torch.no_grad()
def test_up(im2wav: SimpleNamespace, up: UpPrior, case: str):
    golden, condition = im2wav.golden("up_small"), up.conditioner(im2wav.picture()[0][:, 0], im2wav.low_tokens()[:1])
    if case:
        tokens, logits = sample(up.transformer, condition, None, im2wav.up_tokens()[:, :300], 400)
        im2wav.assert_close(logits[::8], golden["primed_logits"], 1e-4)
    else:
        tokens, logits = sample(up.transformer, condition, None, None, 1024)
        im2wav.assert_close(logits[::16], golden["sample_logits"], 1e-4)
    assert torch.equal(tokens, golden[f"{case}tokens"])


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 0.0), (0, 0.7), (1, 0.0), (0, 0.05)])
def test_filters(im2wav: SimpleNamespace, top_k: int, top_p: float):
    logits = im2wav.input_for("im2wav.filter", (2, 1, 50), 2.0)
    assert torch.equal(filter_logits(logits, top_k, top_p), im2wav.golden("misc")[f"filter_k{top_k}_p{top_p}"])


def test_filters_keep_ties_and_all_of_a_small_vocabulary():
    assert filter_logits(torch.tensor([1.0, 2.0, 2.0, 0.0]), top_k=1).isfinite().tolist() == [False, True, True, False]
    assert filter_logits(torch.zeros(3), top_k=9).isfinite().all()
    assert filter_logits(torch.tensor([9.0, 0.0]), top_p=1.0).isfinite().all()


@pytest.mark.parametrize("sampling", [TokenSampling(0.7), TokenSampling(1.5, top_k=4), TokenSampling(top_p=0.8)])
def test_draws_follow_the_softmax(sampling: TokenSampling):
    """8000 draws of one token: a chi-squared of K - 1 = 15 degrees is below 44 in all but one case of 10 000."""
    transformer, count = tiny(init_scale=10.0), 8000
    one = condition_for(transformer, 1)
    sampler = TokenSampler(transformer, count, sampling)
    tokens = sampler.generate(Condition(*(part.expand(count, *part.shape[1:]) for part in one)), stop=1,
                              generators=generators(*range(count)))  # fmt: skip
    logits = filter_logits(sampler.logits[0] / sampling.temperature, sampling.top_k, sampling.top_p)
    expected, drawn = count * logits.softmax(dim=0), tokens[:, 0].bincount(minlength=16)
    possible = expected > 0
    assert not drawn[~possible].any() and possible.sum() >= 3
    assert float(((drawn - expected).square() / expected)[possible].sum()) < 44


def test_tokens_belong_to_their_clip():
    """Whatever batch a clip is in, and however often its sampler was used; chunks of noise differ."""
    transformer = tiny(2 * CHUNK_STEPS)
    both, null = condition_for(transformer, 2), condition_for(transformer, 2, seed=1)
    second, second_null = (Condition(*(part[1:] for part in parts)) for parts in (both, null))
    pair = TokenSampler(transformer, 2, TokenSampling(guidance=2.0))
    single = TokenSampler(transformer, 1, TokenSampling(guidance=2.0))
    tokens = pair.generate(both, null, generators(1, 2))
    assert torch.equal(pair.generate(both, null, generators(1, 2)), tokens)
    assert torch.equal(single.generate(second, second_null, generators(2)), tokens[1:])
    assert not torch.equal(single.generate(second, second_null, generators(3)), tokens[1:])
    assert not torch.equal(pair.noise[0], pair.noise[1])


def test_negative_branch():
    """null + s (conditional - null) - n (negative - null), for every branch in one batch; 0 is the sampler of two."""
    transformer, parts = tiny(), [condition_for(tiny(), 2, seed) for seed in range(3)]
    single = TokenSampler(transformer, 2, TokenSampling(temperature=0))
    alone = []
    for part in parts:
        single.start(part)
        single.step()
        alone.append(single.logits.clone())
    both = TokenSampler(transformer, 2, TokenSampling(temperature=0, guidance=3.0, negative_guidance=1.5))
    both.start(*parts)
    both.step()
    expected = alone[1] + 3.0 * (alone[0] - alone[1]) - 1.5 * (alone[2] - alone[1])
    torch.testing.assert_close(both.logits, expected, rtol=1e-4, atol=1e-4)
    tokens = both.generate(parts[0], parts[1], prefix=single.tokens[:, :3], negative=parts[2])
    assert torch.equal(tokens, both.generate(parts[0], parts[1], prefix=tokens[:, :5], negative=parts[2]))


def test_without_cuda_the_step_stays_and_the_reason_is_given():
    sampler = TokenSampler(tiny(), 1, TokenSampling(temperature=0))
    step = sampler.step
    with pytest.warns(UserWarning, match="without a CUDA graph: "):
        sampler.capture()
    assert sampler.step == step


def test_the_replayed_graph_takes_the_place_of_the_step(monkeypatch: pytest.MonkeyPatch):
    """With stand-ins for CUDA: captured once, and every step of `generate` is a replay."""
    transformer, calls = tiny(), []
    condition = condition_for(transformer, 1)
    sampler = TokenSampler(transformer, 1, TokenSampling(temperature=0))
    tokens, step = sampler.generate(condition), sampler.step
    graph = SimpleNamespace(replay=lambda: (calls.append("replay"), step()))
    for name in ("Stream", "current_stream", "default_stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda: SimpleNamespace(wait_stream=lambda _: None))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda captured: (calls.append("capture"), nullcontext())[1])
    sampler.capture()
    assert torch.equal(sampler.generate(condition), tokens) and calls == ["capture"] + ["replay"] * 8


def test_a_prefix_is_kept_and_continued():
    transformer = tiny()
    condition = condition_for(transformer, 2)
    sampler = TokenSampler(transformer, 2, TokenSampling(temperature=0))
    tokens = sampler.generate(condition)
    for length in (1, 4, 7, 8):
        assert torch.equal(sampler.generate(condition, prefix=tokens[:, :length]), tokens)
    other = sampler.generate(condition, prefix=(tokens[:, :3] + 1) % 16, stop=5)
    assert other.shape == (2, 5) and torch.equal(other[:, :3], (tokens[:, :3] + 1) % 16)


def test_one_compilation_without_a_break():
    transformer = tiny()
    condition, null = condition_for(transformer, 2), condition_for(transformer, 2, seed=1)
    sampler = TokenSampler(transformer, 2, TokenSampling(0.9, top_k=9, top_p=0.9, guidance=3.0))
    tokens = sampler.generate(condition, null, generators(1, 2))
    counter = CompileCounter()
    sampler.step = torch.compile(sampler.step, backend=counter, fullgraph=True)
    assert torch.equal(sampler.generate(condition, null, generators(1, 2)), tokens)
    sampler.generate(null, condition, generators(3, 4), prefix=tokens[:, :5])
    assert counter.frame_count == 1


def test_a_step_asks_the_device_for_nothing():
    """On the meta device there are no values: any use of one on the host raises."""
    transformer = tiny().to("meta")
    sampler = TokenSampler(transformer, 2, TokenSampling(0.9, top_k=9, top_p=0.9, guidance=3.0))
    sampler.step()
    assert sampler.logits.shape == (2, 16)


def test_progress_adds_up():
    transformer, done = tiny(2 * CHUNK_STEPS), []
    TokenSampler(transformer, 1, TokenSampling(0)).generate(
        condition_for(transformer, 1), stop=CHUNK_STEPS + 5, progress=done.append
    )
    assert done == [CHUNK_STEPS, 5]


def test_half_precision():
    transformer = tiny().to(torch.bfloat16)
    sampler = TokenSampler(transformer, 1, TokenSampling(guidance=2.0))
    condition = condition_for(transformer, 1)
    tokens = sampler.generate(condition, condition, generators(0))
    assert sampler.logits.isfinite().all() and sampler.caches[0].dtype == torch.bfloat16
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 16


@pytest.mark.parametrize(
    "wrong",
    [
        lambda sampler, condition: sampler.generate(condition, None, generators(0, 1)),
        lambda sampler, condition: sampler.generate(condition, condition, generators(0)),
        lambda sampler, condition: sampler.generate(Condition(*(x[:1] for x in condition)), condition, generators(0)),
        lambda sampler, condition: sampler.generate(condition, condition, generators(0, 1), stop=9),
        lambda sampler, condition: sampler.generate(
            condition, condition, generators(0, 1), torch.zeros(2, 5, dtype=torch.long), stop=4
        ),
        lambda sampler, condition: sampler.generate(condition, condition, generators(0, 1), negative=condition),
        lambda sampler, condition: TokenSampling(negative_guidance=-1),
        lambda sampler, condition: TokenSampling(temperature=-1),
        lambda sampler, condition: TokenSampling(top_k=-1),
        lambda sampler, condition: TokenSampling(top_p=1.1),
    ],
)
def test_wrong_inputs(wrong: Callable[[TokenSampler, Condition], object]):
    transformer = tiny()
    with pytest.raises(ValueError):
        wrong(TokenSampler(transformer, 2, TokenSampling(guidance=2.0)), condition_for(transformer, 2))
