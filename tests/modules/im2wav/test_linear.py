"""Layers for few rows and int8 layers compute what the linear layers they replace do."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sonolume.modules.im2wav import quantized
from sonolume.modules.im2wav.linear import ColumnLinear, PackedLinear, for_rows
from sonolume.modules.im2wav.quantized import MOST_ROWS, Int8Linear, quantize_int8
from sonolume.modules.im2wav.sampler import TokenSampler, TokenSampling
from sonolume.modules.im2wav.transformer import Condition, TokenTransformer


@pytest.fixture
def transformer() -> TokenTransformer:
    torch.manual_seed(0)
    return TokenTransformer(codes=32, positions=8, width=64, depth=3, heads=2, blocks=2, attention_ratio=0.5,
                            mlp_ratio=1.0, init_scale=5.0).requires_grad_(False)  # fmt: skip


def logits(transformer: TokenTransformer, rows: int) -> Tensor:
    """(steps, rows, K) of four steps on given tokens."""
    random, caches = torch.Generator().manual_seed(rows), transformer.new_caches(rows)
    condition = Condition(torch.randn(rows, 64, generator=random), torch.randn(rows, 8, 64, generator=random))
    tokens = torch.randint(32, (4, rows), generator=random)
    positions = torch.arange(4)[:, None]
    return torch.stack([transformer.step(*pair, condition, caches) for pair in zip(tokens, positions, strict=True)])


@pytest.mark.parametrize("one_dnn", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 17])
@torch.no_grad()
def test_for_rows(transformer: TokenTransformer, rows: int, one_dnn: bool, monkeypatch: pytest.MonkeyPatch):
    if not one_dnn:
        monkeypatch.setattr(PackedLinear, "is_available", lambda: False)
    state = {name: value.clone() for name, value in transformer.state_dict().items()}
    replaced = for_rows(transformer, rows)
    kinds = {type(module) for module in replaced.modules()} & {nn.Linear, ColumnLinear, PackedLinear}
    packed = rows > 3 and one_dnn and PackedLinear.is_available()
    assert kinds == {PackedLinear if packed else ColumnLinear}
    torch.testing.assert_close(logits(replaced, rows), logits(transformer, rows), rtol=1e-4, atol=1e-4)
    assert replaced.places is transformer.places and transformer.output is None
    assert list(transformer.state_dict()) == list(state)


def test_other_types_are_left_as_they_are(transformer: TokenTransformer):
    half = copy.deepcopy(transformer).to(torch.bfloat16)
    assert for_rows(half, 2) is half
    quantize_int8(transformer)
    assert for_rows(transformer, 2) is transformer


@pytest.fixture(params=["fbgemm", "int8pack", "none"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel that is used, and those after it where it does not work here."""
    if request.param != "fbgemm":
        monkeypatch.setattr(quantized, "fbgemm", lambda: None)
    if request.param == "none":
        monkeypatch.setattr(quantized, "HAS_INT8PACK", False)
    return request.param


@pytest.mark.parametrize("rows", [1, 5, MOST_ROWS + 1])
def test_int8_layer(rows: int, kernel: str):
    """Half a step of 1/127 of each row's maximum, of weights and inputs: about 1 % of the output."""
    torch.manual_seed(0)
    linear, x = nn.Linear(256, 64), torch.randn(rows, 256)
    layer, exact = Int8Linear(linear.weight, linear.bias), linear(x).detach()
    assert layer(x).dtype == torch.float32
    assert float((layer(x) - exact).norm() / exact.norm()) < 0.02
    torch.testing.assert_close(layer(x)[0], layer(x[:1])[0], rtol=0.02, atol=0.02)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others():
    layer, x = Int8Linear(torch.randn(64, 128), torch.randn(64)), torch.randn(3, 128)
    larger = torch.cat([x, 100 * x])
    torch.testing.assert_close(layer(larger)[:3], layer(x), rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_stays_zero(kernel: str):
    layer = Int8Linear(torch.zeros(32, 64), torch.ones(32))
    assert (layer(torch.randn(2, 64)) == 1).all() and (layer(torch.zeros(50, 64)) == 1).all()


@pytest.mark.parametrize("size", [(4, 8), (33, 64), (32, 40)])
def test_sizes_beyond_the_kernel(size: tuple[int, int], kernel: str):
    """One of the kernels would read past the end of such weights."""
    torch.manual_seed(0)
    weight, x = torch.randn(size), torch.randn(2, size[1])
    layer = Int8Linear(weight, None)
    assert not layer.has_int8pack
    torch.testing.assert_close(layer(x), x @ weight.T, rtol=0.05, atol=0.2)


@torch.no_grad()
def test_int8_transformer(transformer: TokenTransformer):
    """All products of a step; the result samples from a prefix on."""
    exact = logits(transformer, 2)
    quantize_int8(transformer)
    assert not any(isinstance(module, nn.Linear) for module in transformer.modules())
    assert isinstance(transformer.output, Int8Linear)
    error = (logits(transformer, 2) - exact).norm() / exact.norm()
    assert 1e-4 < float(error) < 0.05
    condition = Condition(torch.randn(1, 64), torch.randn(1, 8, 64))
    sampler = TokenSampler(transformer, 1, TokenSampling(temperature=0))
    tokens = sampler.generate(condition)
    assert torch.equal(sampler.generate(condition, prefix=tokens[:, :5]), tokens)
