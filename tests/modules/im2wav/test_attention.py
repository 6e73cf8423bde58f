"""Each pattern equals dense attention with its mask, in parallel, step by step, and from any prefix on."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.im2wav.attention import PATTERNS, Attention, Column, Grid, OwnBlock, Pattern, PreviousBlock

GRID = Grid(blocks=3, size=4)
POSITIONS = 12


def mask(pattern: Pattern) -> Tensor:
    """(T, T) bool, by the definition: query t (row) attends to key s (column)."""
    t, s = torch.arange(POSITIONS)[:, None], torch.arange(POSITIONS)[None]
    if isinstance(pattern, OwnBlock):
        return (t // 4 == s // 4) & (s <= t)
    if isinstance(pattern, Column):
        return (t % 4 == s % 4) & (s <= t)
    return t // 4 - 1 == s // 4


@pytest.fixture(params=PATTERNS)
def attention(request: pytest.FixtureRequest) -> Attention:
    torch.manual_seed(0)
    return Attention(16, 8, 2, request.param(GRID)).requires_grad_(False)


def dense(attention: Attention, x: Tensor) -> Tensor:
    q, k, v = attention.qkv(x).view(len(x), POSITIONS, 3, 2, 4).permute(2, 0, 3, 1, 4)
    scores = (q @ k.mT / 2).masked_fill(~mask(attention.pattern), -torch.inf)
    return attention.out((scores.softmax(dim=-1).nan_to_num() @ v).transpose(1, 2).flatten(2))


def new_cache(attention: Attention, batch: int) -> Tensor:
    return torch.zeros(attention.pattern.cache_length, batch, 2, 2, 4)


def test_in_parallel(attention: Attention):
    x = torch.randn(5, POSITIONS, 16)
    torch.testing.assert_close(attention(x), dense(attention, x))


@pytest.mark.parametrize("length", range(POSITIONS))
def test_step_by_step_from_a_prefix(attention: Attention, length: int):
    x, cache = torch.randn(2, POSITIONS, 16), new_cache(attention, 2)
    if length:
        attention(x.index_fill(1, torch.arange(length, POSITIONS), 100.0), cache, length)
    steps = [attention.step(x[:, t], cache, GRID.cursor(torch.tensor([t]))) for t in range(length, POSITIONS)]
    torch.testing.assert_close(torch.stack(steps, dim=1), dense(attention, x)[:, length:])


def test_the_first_block_has_no_previous_one():
    torch.manual_seed(0)
    attention, x = Attention(16, 8, 2, PreviousBlock(GRID)), torch.randn(2, POSITIONS, 16)
    assert torch.equal(attention(x)[:, :4], attention.out.bias.expand(2, 4, 16))
    step = attention.step(x[:, 3], new_cache(attention, 2), GRID.cursor(torch.tensor([3])))
    assert torch.equal(step, attention.out.bias.expand(2, 16))


def test_caches_are_no_longer_than_the_pattern():
    assert [pattern(Grid(64, 128)).cache_length for pattern in PATTERNS] == [128, 64 * 128, 256]


def test_scale_is_that_of_a_head():
    q, k, v = torch.randn(3, 1, 2, POSITIONS, 4)
    last = F.scaled_dot_product_attention(q[:, :, -1:], k[:, :, 8:], v[:, :, 8:], scale=0.5)
    torch.testing.assert_close(OwnBlock(GRID).attend(q, k, v)[:, :, -1:], last)
