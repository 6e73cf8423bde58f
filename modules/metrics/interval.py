"""How sure a mean is: percentile bootstrap (Efron 1979)."""

import torch
from torch import Tensor


def bootstrap_mean(values: Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Bounds that hold the mean of (N,) values with probability `level`; equal numbers give that number twice.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("there is nothing to take the mean of")
    random = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (draws, len(values)), generator=random)
    means = values.double()[chosen].mean(dim=1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
