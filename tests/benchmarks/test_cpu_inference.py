"""One U-Net call of the published size on a CPU: pytest -m benchmark -s tests/benchmarks/test_cpu_inference.py

All variants run in turn in one process, on one thread, with random weights and latents of 4 x 5 x 39. Times are
processor time. bfloat16 is measured only where the processor multiplies it.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

ROUNDS = 5
RETURNED = 2**25  # bytes: the size from which glibc maps a block anew, unless it is told otherwise


@pytest.mark.benchmark
@pytest.mark.parametrize("batch", [1, 2])
def test_variants_of_one_call(batch: int, print_table: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sonolume.config.tta.audioldm import AudioLDMConfig
    from sonolume.models.tta.audioldm.components import build_unet
    from sonolume.modules import prepacking
    from sonolume.utils import allocator

    monkeypatch.setattr(prepacking, "PLAIN_CALLS", 0)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = build_unet(AudioLDMConfig(use_checkpoint=False)).eval()
    for weight in unet.parameters():
        if not weight.any() and weight.ndim > 1:  # the last layers begin with zeros
            torch.nn.init.normal_(weight, std=0.02)
    variants: dict[str, Any] = {"float32, default allocator": unet, "float32": unet, "float32, prepacked": unet}
    variants["float32, prepacked"] = prepacked(unet)
    if prepacking.is_available(torch.bfloat16):
        half = copy.deepcopy(unet).bfloat16()
        variants |= {"bfloat16": half, "bfloat16, prepacked": prepacked(half)}
    x, states = torch.randn(batch, 4, 5, 39), torch.randn(batch, 12, 768)

    @torch.no_grad()
    def call(name: str) -> tuple[float, Any]:
        kept = RETURNED if name.endswith("allocator") else 2**30
        monkeypatch.setattr(allocator, "LARGEST", kept)
        allocator.keep_freed_memory()
        network = variants[name]
        start = time.process_time()
        found = network(x.to(network.dtype), torch.tensor(500), states.to(network.dtype)).sample
        return time.process_time() - start, found.float()

    try:
        first = {name: call(name) for name in variants}
        rounds = [{name: call(name)[0] for name in variants} for _ in range(ROUNDS)]
    finally:
        monkeypatch.undo()
        allocator.keep_freed_memory()
    exact, rows = first["float32"][1], []
    spent = {name: statistics.median(one[name] for one in rounds) for name in variants}
    slowest = spent["float32, default allocator"]
    for name, seconds in spent.items():
        difference = (first[name][1] - exact).abs().max() / exact.abs().max()
        rows.append([name, f"{first[name][0]:.2f}", f"{seconds:.3f}", f"{slowest / seconds:.2f}x", f"{difference:.1e}"])
    title = f"U-Net call of batch {batch}, processor seconds, median of {ROUNDS}"
    print_table(title, ["variant", "first call", "call", "faster", "largest difference / largest value"], rows)


def prepacked(network: Any) -> Any:
    from sonolume.modules.prepacking import prepack

    copied = copy.deepcopy(network)
    prepack(copied)
    return copied
