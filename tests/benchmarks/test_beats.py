"""BEATs against its plain-attention form: pytest -m benchmark -s tests/benchmarks/test_beats.py

Both have the published size, the same random weights, one thread, and run in turn on the same 4 sounds of 10 s. The
plain form differs in the attention alone and is written with the same care: the bias is looked up once, the gate is
applied in one pass over the scores, in place. Times are processor time, since the wall time of a shared machine is
noise.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

BATCH, SECONDS, RUNS = 4, 10, 5
LEAST = 1.1


@contextmanager
def plain_attention() -> Iterator[None]:
    """Scores, bias, softmax and mixture one after the other, for the whole batch."""
    from torch import Tensor

    from sonolume.modules.beats.beats import Attention

    def forward(self: Attention, x: Tensor, bias: Tensor, token_mask: Tensor | None) -> Tensor:
        assert token_mask is None
        q, k, v = (project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for project in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        scores = ((q * q.shape[-1] ** -0.5) @ k.mT).addcmul_(self.gate(q), bias)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    fused = Attention.forward
    Attention.forward = forward
    try:
        yield
    finally:
        Attention.forward = fused


@pytest.mark.benchmark
def test_against_plain_attention(print_table: Callable[..., None]) -> None:
    import torch

    from sonolume.modules.beats.beats import BEATs

    if torch.cuda.is_available():
        pytest.skip("a GPU is here: this table is of a CPU")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    beats, waves = BEATs().eval(), 0.1 * torch.randn(BATCH, 16000 * SECONDS)

    def seconds() -> tuple[float, torch.Tensor]:
        start = time.process_time()
        hidden = beats(waves).hidden
        return time.process_time() - start, hidden

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    with torch.inference_mode():
        beats(waves[:1])
        for _ in range(RUNS):
            took, ours = seconds()
            times["ours"].append(took)
            with plain_attention():
                took, plain = seconds()
            times["plain"].append(took)
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-4)
    best = {name: min(runs) for name, runs in times.items()}
    ratio = best["plain"] / best["ours"]
    rows = [[name, f"{seconds:.2f}"] for name, seconds in best.items()] + [["plain / ours", f"{ratio:.2f}x"]]
    print_table(f"BEATs, {BATCH} x {SECONDS} s; processor seconds, least of {RUNS}", ["", "one forward"], rows)
    assert ratio >= LEAST
