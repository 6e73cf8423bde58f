"""The codebook equals the official one, batch after batch, and does not depend on the number of processes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sonolume.modules.im2wav import quantizer
from sonolume.modules.im2wav.quantizer import Codebook, DrawRows, Reduce, draw_rows, identity


def test_three_batches_and_a_restart_of_the_sums(im2wav: SimpleNamespace):
    golden, codebook = im2wav.golden("bottleneck"), Codebook(64, 16)
    for batch in range(3):
        if batch == 2:
            codebook.set_codes(codebook.codes.clone(), count=80 / 64)
        x = im2wav.input_for(f"im2wav.bottleneck{batch}", (2, 16, 40))
        quantized = codebook(x, im2wav.draw_rows)
        assert torch.equal(quantized.tokens, golden[f"codes{batch}"])
        im2wav.assert_close(quantized.vectors, golden[f"quantised{batch}"], 2e-6)
        im2wav.assert_close(quantized.commitment, golden[f"commit{batch}"], 1e-6)
        im2wav.assert_close(codebook.codes, golden[f"k{batch}"], 2e-6)
        im2wav.assert_close(codebook.sums, golden[f"k_sum{batch}"], 2e-6)
        im2wav.assert_close(codebook.counts, golden[f"k_elem{batch}"], 1e-6)
        statistics = torch.stack([value.float() for value in quantized.statistics])
        torch.testing.assert_close(statistics, golden[f"metrics{batch}"], rtol=1e-5, atol=0)


def test_nothing_changes_without_rows_to_draw_from(im2wav: SimpleNamespace):
    codebook = Codebook(64, 16)
    codebook.set_codes(torch.randn(64, 16), count=1.0)
    before = {name: value.clone() for name, value in codebook.state_dict().items()}
    quantized = codebook(torch.randn(2, 16, 40))
    assert all(torch.equal(value, before[name]) for name, value in codebook.state_dict().items())
    assert quantized.statistics.shift == 0
    torch.testing.assert_close(codebook.decode(quantized.tokens), quantized.vectors)


def test_the_gradient_passes_straight_through():
    codebook = Codebook(8, 4)
    codebook.set_codes(torch.randn(8, 4), count=1.0)
    x = torch.randn(2, 4, 5, requires_grad=True)
    weight = torch.randn(2, 4, 5)
    (codebook(x).vectors * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_chunks_of_rows_give_the_same_tokens(monkeypatch: pytest.MonkeyPatch):
    codebook, x = Codebook(32, 8), torch.randn(2, 8, 50)
    codebook.set_codes(torch.randn(32, 8), count=1.0)
    whole = codebook(x)
    monkeypatch.setattr(quantizer, "CHUNK_ROWS", 7)
    assert torch.equal(codebook(x).tokens, whole.tokens)


class Processes:
    """Two threads in place of processes, with a sum over both."""

    def __init__(self) -> None:
        self.barrier, self.parts = threading.Barrier(2, timeout=20), [torch.empty(0)] * 2

    def run(self, work: Callable[[int, Reduce], object]) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda rank: work(rank, lambda part: self._sum(rank, part)), range(2)))

    def _sum(self, rank: int, part: Tensor) -> Tensor:
        self.parts[rank] = part
        self.barrier.wait()
        total = self.parts[0] + self.parts[1]
        self.barrier.wait()
        return total


def draw_for(step: int, rank: int = 0, world: int = 1, reduce: Reduce = identity) -> DrawRows:
    random = torch.Generator().manual_seed(step)
    return lambda rows, count: draw_rows(rows, count, random, rank, world, reduce)


@pytest.mark.parametrize("codes", [100, 300])  # fewer and more than the 160 rows of a batch
def test_two_processes_equal_one(codes: int):
    batches = torch.randn(3, 4, 8, 40, generator=torch.Generator().manual_seed(0))  # (steps, B, D, T)
    whole, halves = Codebook(codes, 8), [Codebook(codes, 8), Codebook(codes, 8)]
    for step, batch in enumerate(batches):
        whole(batch, draw_for(step))
        Processes().run(
            lambda rank, reduce, step=step, batch=batch: halves[rank](
                batch.chunk(2)[rank], draw_for(step, rank, 2, reduce), reduce
            )
        )
    assert whole.counts.min() < 1 < whole.counts.max()  # some codes were drawn anew
    for half in halves:
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(half.state_dict()[name], value, rtol=0, atol=1e-5)


def test_a_resumed_codebook_continues_exactly():
    first, second = Codebook(16, 8), Codebook(16, 8)
    batches = torch.randn(4, 2, 8, 20)
    for step in range(2):
        first(batches[step], draw_for(step))
    second.load_state_dict(first.state_dict())
    for step in range(2, 4):
        for codebook in (first, second):
            codebook(batches[step], draw_for(step))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
