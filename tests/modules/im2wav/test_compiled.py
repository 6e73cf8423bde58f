"""Compiled sampling steps compute what the steps they replace do."""

import copy
import functools

import pytest
import torch
from torch import nn

from sonolume.modules.compiling import check_compiler
from sonolume.modules.im2wav.compiled import MOST_ROWS, SummedLinear, compile_for_rows
from sonolume.modules.im2wav.quantized import Int8Linear, quantize_int8
from sonolume.modules.im2wav.sampler import TokenSampler, TokenSampling
from sonolume.modules.im2wav.transformer import Condition, TokenTransformer


@pytest.fixture
def transformer() -> TokenTransformer:
    torch.manual_seed(0)
    return TokenTransformer(codes=32, positions=8, width=64, depth=3, heads=2, blocks=2, attention_ratio=0.5,
                            mlp_ratio=1.0, init_scale=5.0).requires_grad_(False)  # fmt: skip


def condition(seed: int) -> Condition:
    random = torch.Generator().manual_seed(seed)
    return Condition(torch.randn(1, 64, generator=random), torch.randn(1, 8, 64, generator=random))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_summed_linear(rows: int):
    linear, x = nn.Linear(48, 33), torch.randn(rows, 48)
    torch.testing.assert_close(SummedLinear(linear.weight, linear.bias)(x), linear(x))
    int8 = Int8Linear(linear.weight, linear.bias, packed=False)
    exact = x @ (int8.values * int8.scale[:, None].float()).T + linear.bias
    torch.testing.assert_close(SummedLinear(int8.values, int8.bias, int8.scale)(x), exact)
    half = SummedLinear(linear.weight.bfloat16(), linear.bias.bfloat16())(x.bfloat16())
    assert half.dtype == torch.bfloat16


def test_only_few_rows_on_a_cpu(transformer: TokenTransformer):
    assert compile_for_rows(transformer, MOST_ROWS + 1) is None
    assert compile_for_rows(copy.deepcopy(transformer).to("meta"), 1) is None


def test_weights_are_shared(transformer: TokenTransformer):
    compiled = compile_for_rows(transformer, 1)
    assert compiled is not None and transformer.output is None
    theirs = {tensor.data_ptr() for tensor in transformer.parameters()}
    assert {tensor.data_ptr() for tensor in compiled.parameters()} == theirs


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.full)])  # 20 seconds
@pytest.mark.parametrize("int8", [False, True])
def test_the_same_tokens(transformer: TokenTransformer, int8: bool, backend: str, monkeypatch: pytest.MonkeyPatch):
    """With guidance, from a prefix on, and by a second sampler, which compiles nothing anew."""
    if int8:
        quantize_int8(transformer, packed=False)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    try:
        check_compiler()
    except RuntimeError as error:
        pytest.skip(f"no C++ compiler: {error}")
    sampling = TokenSampling(temperature=0, guidance=3.0)
    exact = TokenSampler(transformer, 1, sampling)
    tokens = exact.generate(condition(0), condition(1))
    for _ in range(2):
        torch._dynamo.utils.counters.clear()
        compiled = TokenSampler(transformer, 1, sampling, compiled=True)
        assert compiled.stepper is not exact.stepper
        assert torch.equal(compiled.generate(condition(0), condition(1)), tokens)
        tolerance = 0.05 if int8 else 1e-4  # the other int8 kernels round inputs, too
        torch.testing.assert_close(compiled.logits, exact.logits, rtol=tolerance, atol=tolerance)
        assert torch.equal(compiled.generate(condition(0), condition(1), prefix=tokens[:, :5]), tokens)
    assert not torch._dynamo.utils.counters["frames"]
