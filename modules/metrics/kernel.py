"""Kernel inception distance: the unbiased squared MMD with a cubic kernel (Binkowski et al. 2018)."""

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from sonolume.modules.metrics.embeddings import check_embeddings


def kernel_distance(
    real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over subsets of (N, d) against (M, d); about 0 for equal distributions, may be below.

    Kernel (x.y / d + 1)^3. Sets of one size up to `subset_size` are compared whole, once.

    Raises:
        ValueError: fewer than two rows, other widths, NaN.
    """
    check_embeddings(generated, check_embeddings(real).shape[1])
    size = min(subset_size, len(real), len(generated))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 2 embeddings on each side, got {size}")
    real, generated = real.double(), generated.double()
    if size == len(real) == len(generated):
        return float(poly_mmd(real, generated)), 0.0
    random = torch.Generator().manual_seed(seed)
    found = torch.stack([poly_mmd(_draw(real, size, random), _draw(generated, size, random)) for _ in range(subsets)])
    return float(found.mean()), float(found.std(correction=0))


def _draw(rows: Tensor, size: int, random: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=random)[:size]]
