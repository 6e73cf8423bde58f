"""Time and memory of the orders of training items: pytest -m benchmark -s tests/benchmarks/test_data_order.py"""

import math
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from sonolume.models.data_order import Order, make_order

ROWS = [10**3, 10**6, 10**8]
SHARD = 10_000  # rows; small data sets are split into 20 shards, so that they have windows too
KINDS: dict[str, Callable[[np.ndarray], Order]] = {
    "blocks": lambda shards: make_order([shards], [], 1),
    "mixed 2:1:1": lambda shards: make_order([shards[::2], shards[1::4], shards[3::4]], [2, 1, 1], 1),
    "epochs": lambda shards: make_order([[int(shards.sum())]], [], 1),
}


def measure(make: Callable[[np.ndarray], Order], rows: int) -> list[float]:
    """First item (ms), jump to the last one of an epoch (ms), one of the next items (us), and memory (MB)."""
    shards = np.full(max(20, rows // SHARD), rows // max(20, rows // SHARD))

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    order = make(shards)
    first, jump = seconds(lambda: make(shards).item(0)), seconds(lambda: order.item(rows - 1))
    many = range(rows, rows + 100_000)
    each = seconds(lambda: [order.item(position) for position in many]) / len(many)
    tracemalloc.start()
    order = make(shards)
    order.item(rows - 1)
    peak = tracemalloc.get_traced_memory()[1] + getattr(order, "_permutation", shards[:0]).nbytes  # torch's: not traced
    tracemalloc.stop()
    return [first * 1e3, jump * 1e3, each * 1e6, peak / 1e6]


@pytest.mark.benchmark
@pytest.mark.parametrize("kind", KINDS)
def test_orders(kind: str, print_table: Callable[[str, list[str], list[list[str]]], None]) -> None:
    """The last column is the exponent of the growth from 1e6 to 1e8 rows: 0 constant, 1 linear.

    `epochs`, the order of a data set without shards, permutes all rows at the beginning of each epoch, and the measured
    items are the first of one.
    """
    measure(KINDS[kind], 10**3)  # imports
    rows = ROWS if kind != "epochs" else [10**3, 10**6, 10**7]
    found = [measure(KINDS[kind], count) for count in rows]
    decades = math.log10(rows[-1] / rows[-2])
    growth = [math.log10(large / small) / decades for small, large in zip(*found[-2:], strict=True)]
    names = ["first item, ms", "jump, ms", "next items, us", "memory, MB"]
    table = [[name, *(f"{one[number]:.3g}" for one in found), f"{growth[number]:.2f}"]
             for number, name in enumerate(names)]  # fmt: skip
    print_table(f"{kind}, {SHARD:,} rows a shard", ["", *(f"{count:.0e} rows" for count in rows), "exponent"], table)
