"""One U-Net call of the published size on a CPU: pytest -m benchmark -s tests/benchmarks/test_cpu_inference.py

Random weights, latents of 4 x 5 x 39, one thread, processor time. The variants run in turn, but for the default
allocator: what the process keeps once cannot be given back, so that its calls come first. bfloat16 is measured only
where the processor multiplies it.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

ROUNDS = 5
BATCHES = (1, 2)  # a clip without and with guidance


@pytest.mark.benchmark
def test_variants_of_one_call(print_table: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sonolume.modules import prepacking
    from sonolume.utils.allocator import keep_freed_memory

    monkeypatch.setattr(prepacking, "PLAIN_CALLS", 0)
    torch.set_num_threads(1)
    unet = build()
    inputs = {batch: (torch.randn(batch, 4, 5, 39), torch.randn(batch, 12, 768)) for batch in BATCHES}

    @torch.no_grad()
    def call(network: Any, batch: int) -> tuple[float, Any]:
        x, states = (one.to(network.dtype) for one in inputs[batch])
        start = time.process_time()
        found = network(x, torch.tensor(500), states).sample
        return time.process_time() - start, found.float()

    exact = {batch: call(unet, batch)[1] for batch in BATCHES}
    before = {batch: statistics.median(call(unet, batch)[0] for _ in range(ROUNDS)) for batch in BATCHES}
    assert keep_freed_memory(), "the C library is not glibc"
    variants = {"float32": unet, "float32, prepacked": prepacked(unet)}
    if prepacking.is_available(torch.bfloat16):
        half = copy.deepcopy(unet).bfloat16()
        variants |= {"bfloat16": half, "bfloat16, prepacked": prepacked(half)}
    variants["float32, compiled"] = compiled(unet)
    for batch in BATCHES:
        rows = [["float32, default allocator", "", f"{before[batch]:.3f}", "1.00x", "0"]]
        first = {name: call(network, batch) for name, network in variants.items()}
        rounds = [{name: call(network, batch)[0] for name, network in variants.items()} for _ in range(ROUNDS)]
        for name, (seconds, found) in first.items():
            spent = statistics.median(one[name] for one in rounds)
            difference = (found - exact[batch]).abs().max() / exact[batch].abs().max()
            rows.append([name, f"{seconds:.2f}", f"{spent:.3f}", f"{before[batch] / spent:.2f}x", f"{difference:.1e}"])
        title = f"U-Net call of batch {batch}, processor seconds, median of {ROUNDS}"
        print_table(title, ["variant", "first call", "call", "faster", "largest difference / largest value"], rows)


def build() -> Any:
    """The published U-Net; its last layers, which begin with zeros, are random as well."""
    import torch

    from sonolume.config.tta.audioldm import AudioLDMConfig
    from sonolume.models.tta.audioldm.components import build_unet

    torch.manual_seed(0)
    unet = build_unet(AudioLDMConfig(use_checkpoint=False)).eval()
    for weight in unet.parameters():
        if not weight.any() and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.02)
    return unet


def compiled(network: Any) -> Any:
    """As with --compile; its first call of a size takes minutes."""
    import torch

    from sonolume.modules.compiling import compile_network

    copied = copy.deepcopy(network).requires_grad_(False)
    compile_network(copied, torch.device("cpu"))
    return copied


def prepacked(network: Any) -> Any:
    from sonolume.modules.prepacking import prepack

    copied = copy.deepcopy(network)
    prepack(copied)
    return copied
