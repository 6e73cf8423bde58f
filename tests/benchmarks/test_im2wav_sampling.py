"""Sampling with Im2Wav's priors of published size on one core: pytest -m benchmark -s <this file>

The other side is a plain loop on the same modules: caches that grow by concatenation, cut to what each attention kind
reads, one pass for each guidance branch, `torch.multinomial`; it is not compiled, because its shapes change in every
step. Random weights, one thread, its processor time, medians over rounds; sides and positions take turns. A whole clip
is 2048 guided Low tokens and 8192 Up tokens, estimated from the first, the middle and the last step by the trapezoidal
rule. The time of compilation, about 15 seconds for each network in the first run on a machine, is not part of it.
"""

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.im2wav.attention import Column, OwnBlock
from sonolume.modules.im2wav.quantized import quantize_int8
from sonolume.modules.im2wav.sampler import TokenSampler, TokenSampling
from sonolume.modules.im2wav.transformer import Condition, TokenTransformer

LOW, UP = 2048, 8192  # positions
GUIDANCE = {LOW: 3.0, UP: 1.0}
CODES, WIDTH = 2048, 1024
ROUNDS, BATCH_ROUNDS = 9, 4
BATCH = 8

Times = dict[str, list[list[float]]]  # side -> seconds of the first, middle and last step in each round


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def transformer(positions: int) -> TokenTransformer:
    torch.manual_seed(0)
    return TokenTransformer(CODES, positions, WIDTH, 48, 1, 64, 0.25, 1.0, 0.7).eval().requires_grad_(False)


def conditions(positions: int, batch: int) -> list[Condition]:
    """One for each branch."""
    torch.manual_seed(1)
    count = 1 if GUIDANCE[positions] == 1 else 2
    return [Condition(torch.randn(batch, WIDTH), torch.randn(batch, positions, WIDTH)) for _ in range(count)]


def keys_and_values(positions: int, layer: int) -> Tensor:
    """(2, 1, H, T, d), random ones of a layer."""
    return torch.randn(2, 1, 1, positions, WIDTH // 4, generator=torch.Generator().manual_seed(layer))


class Plain:
    """The plain loop of one batch, from a position on, with random keys and values before it."""

    def __init__(self, model: TokenTransformer, batch: int, position: int) -> None:
        self.model, self.position, self.conditions = model, position, conditions(len(model.places), batch)
        self.scale = GUIDANCE[len(model.places)]
        self.caches = [[self.cache(layer, batch) for layer in range(len(model.blocks))] for _ in self.conditions]
        self.logits = torch.empty(0)

    def cache(self, layer: int, batch: int) -> tuple[Tensor, Tensor]:
        kv = keys_and_values(len(self.model.places), layer)[..., self.first(layer) : self.position, :]
        return tuple(kv.expand(2, batch, *kv.shape[2:]).clone())  # type: ignore[return-value]

    def first(self, layer: int) -> int:
        """First position in the cache of a layer."""
        pattern, size = self.model.blocks[layer].attention.pattern, self.model.grid.size  # type: ignore[union-attr]
        block = self.position // size
        if isinstance(pattern, Column):
            return 0
        return size * (block if isinstance(pattern, OwnBlock) else max(0, block - 1))

    def step(self, previous: Tensor) -> Tensor:
        """Tokens (B, 1) after the previous ones (B,)."""
        branches = [self.branch(previous, *pair) for pair in zip(self.conditions, self.caches, strict=True)]
        self.logits = branches[0]
        if len(branches) == 2:
            self.logits = self.scale * branches[0] + (1 - self.scale) * branches[1]
        self.position += 1
        return torch.multinomial(self.logits.softmax(dim=1), 1)

    def branch(self, previous: Tensor, condition: Condition, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        added = condition.positions[:, self.position]                                  # (B, W)
        h = self.model.tokens(previous) if self.position else condition.start          # (B, W)
        h = h + self.model.places[self.position] + added
        for layer, block in enumerate(self.model.blocks):
            h = h + self.attend(block.attention, block.norm1(h), layer, caches)  # type: ignore[union-attr, operator]
            h = h + block.mlp(block.norm2(h))  # type: ignore[union-attr, operator]
        return F.linear(h + added, self.model.tokens.weight)

    def attend(self, attention: Any, x: Tensor, layer: int, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        q, k, v = attention.qkv(x).view(len(x), 3, 1, 1, -1).unbind(1)                 # (B, H, 1, d)
        first, size = self.first(layer), self.model.grid.size
        length = self.position - first                                                 # positions to keep
        old_k, old_v = (old[:, :, old.shape[2] - length :] for old in caches[layer])
        k, v = caches[layer] = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
        if isinstance(attention.pattern, Column):
            k, v = (part[:, :, self.position % size :: size] for part in (k, v))
        elif not isinstance(attention.pattern, OwnBlock):
            if self.position < size:
                return attention.out(torch.zeros_like(q).flatten(1))
            k, v = k[:, :, :size], v[:, :, :size]
        return attention.out(F.scaled_dot_product_attention(q, k, v).flatten(1))


class Ours:
    """`TokenSampler` at any position."""

    def __init__(self, model: TokenTransformer, batch: int, position: int, compiled: bool = False) -> None:
        positions = len(model.places)
        self.sampler = TokenSampler(model, batch, TokenSampling(guidance=GUIDANCE[positions]), compiled)
        self.sampler.start(*conditions(positions, batch))
        for layer, cache in enumerate(self.sampler.caches):
            kv = keys_and_values(positions, layer).expand(2, cache.shape[1], 1, positions, -1)
            model.blocks[layer].attention.pattern.fill(cache, kv, position)  # type: ignore[union-attr, operator]
        self.sampler._draw_noise([torch.Generator().manual_seed(clip) for clip in range(batch)])

    def step(self, previous: Tensor, position: int) -> None:
        self.sampler.position.fill_(position)
        self.sampler.tokens[:, position - 1] = previous
        self.sampler.step()


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.thread_time()
    function(*arguments)
    return time.thread_time() - start


def our_sides(model: TokenTransformer, batch: int, position: int) -> dict[str, Ours]:
    """Compiled ones, too, for a single clip."""
    int8, unpacked = copy.deepcopy(model), copy.deepcopy(model)
    quantize_int8(int8)
    quantize_int8(unpacked, packed=False)
    sides = {"float32": Ours(model, batch, position), "int8": Ours(int8, batch, position)}
    if batch == 1:
        sides["float32 compiled"] = Ours(model, batch, position, compiled=True)
        sides["int8 compiled"] = Ours(unpacked, batch, position, compiled=True)
    for side in sides.values():
        side.step(torch.arange(batch), position)
    return sides


def measure(model: TokenTransformer, batch: int, rounds: int) -> Times:
    """Interleaved steps; the middle one, first of all, on the same caches: the same logits."""
    positions, previous = len(model.places), torch.arange(batch)
    starts = [0, positions // 2, positions - rounds - 1]
    plain, ours = [Plain(model, batch, start) for start in starts], our_sides(model, batch, starts[1])
    times: Times = {side: [[], [], []] for side in ("plain", *ours)}
    for number in range(rounds):
        for index in (1, 2, 0):
            times["plain"][index].append(seconds(plain[index].step, previous))
            for name, side in ours.items():
                times[name][index].append(seconds(side.step, previous, starts[index] + number))
                if index == 1 and number == 0:
                    check(plain[1].logits, side.sampler.logits, name)
    return times


def check(plain: Tensor, ours: Tensor, name: str) -> None:
    error = float((ours - plain).norm() / plain.norm())
    same = float((ours.argmax(dim=1) == plain.argmax(dim=1)).float().mean())
    print(f"\nlogits of {name} differ by {error:.1e} of their norm, {same:.0%} of the most likely tokens are the same")
    assert error < (0.03 if "int8" in name else 1e-4)


def clip_seconds(low: Times, up: Times, side: str) -> float:
    total = 0.0
    for count, times in ((LOW, low[side]), (UP, up[side])):
        first, middle, last = map(statistics.median, times)
        total += count * (first + 2 * middle + last) / 4
    return total


@pytest.mark.benchmark
@torch.no_grad()
def test_a_whole_clip(print_table: Callable[..., None]) -> None:
    results: dict[int, dict[int, Times]] = {1: {}, BATCH: {}}
    for positions in (LOW, UP):
        model = transformer(positions)
        for batch, rounds in ((1, ROUNDS), (BATCH, BATCH_ROUNDS)):
            results[batch][positions] = measure(model, batch, rounds)
    total = {(batch, side): clip_seconds(levels[LOW], levels[UP], side) / batch
             for batch, levels in results.items() for side in levels[LOW]}  # fmt: skip
    alone = total[1, "plain"]
    rows = []
    for (batch, side), each in total.items():
        steps = [f"{1000 * statistics.median(t):.1f}" for level in (LOW, UP) for t in results[batch][level][side]]
        ratios = [f"{alone / each:.2f}", f"{total[batch, 'plain'] / each:.2f}"]
        rows.append([f"{batch} x {side}", *steps, f"{each:.0f}", *ratios])
    places = ["Low first, ms", "middle", "last", "Up first, ms", "middle", "last"]
    header = ["clips", *places, "s a clip", "times one plain", "times equal plain"]
    print_table(f"4.1 s, one thread, load {os.getloadavg()[0]:.1f}", header, rows)
    assert alone / total[1, "float32 compiled"] >= 2.0
    assert alone / total[1, "int8 compiled"] >= 3.0
    assert alone / total[BATCH, "float32"] >= 7.0
    # the fastest round shows the work of a step; the medians of two positions differ by what else the machine does
    for times in (times for level in results[1].values() for side, times in level.items() if side != "plain"):
        assert min(times[2]) <= 1.1 * min(times[0])
