"""Frechet distance between two sets of embeddings: FAD for sounds, FID for pictures, FD on any embedder.

d^2 = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) of two Gaussians (Dowson & Landau 1982; Heusel et al. 2017;
Kilgour et al. 2019 for sound). The mathematics is torchmetrics', in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from sonolume.modules.metrics.embeddings import Given, check_embeddings

RELIABLE = 2  # samples for each dimension, below which the distance mostly measures the sample size


class FrechetDistance(FrechetInceptionDistance):
    """A torchmetrics metric fed with embeddings: streaming, and summed over processes.

    Args:
        dim: width of the embeddings.
    """

    def __init__(self, dim: int) -> None:
        feature: nn.Module = Given(dim)
        super().__init__(feature=feature)

    def update(self, imgs: Tensor, real: bool) -> None:
        """Add embeddings (N, dim), finite, of the reference (`real`) or of what is judged.

        Raises:
            ValueError: another shape, or NaN.
        """
        super().update(check_embeddings(imgs, self.inception.num_features).double(), real)  # type: ignore[union-attr, arg-type]


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Distance of (N, d) from (M, d), both at least two rows; 0 for equal sets.

    Raises:
        ValueError: shapes that do not fit, fewer than two rows, NaN.
    """
    for rows in (real, generated):
        if len(rows) < 2:
            raise ValueError(f"a Frechet distance needs at least 2 embeddings on each side, got {len(rows)}")
    metric = FrechetDistance(real.shape[1])
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return max(0.0, float(metric.compute()))  # rounding may leave -1e-12


@dataclass(frozen=True)
class Extrapolation:
    """A line `value + slope / N` through distances at several sample sizes."""

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(real: Tensor, generated: Tensor, points: int = 15, seed: int = 0) -> Extrapolation:
    """The distance at infinitely many generated samples (Chong & Forsyth 2020), by a line in 1/N.

    A finite sample makes the distance too large by about slope / N, which punishes models for the sample's size.

    Args:
        points: subset sizes, evenly spread from half of N (but more than d where N allows it) to N.

    Raises:
        ValueError: fewer than 4 generated samples, or what `frechet_distance` refuses.
    """
    count, dim = generated.shape
    if count < 4:
        raise ValueError(f"an extrapolation needs at least 4 generated embeddings, got {count}")
    first = min(max(count // 2, dim + 1), max(2, count - points))
    sizes = sorted({int(size) for size in torch.linspace(first, count, points).round().tolist()})
    random = torch.Generator().manual_seed(seed)
    distances = [
        frechet_distance(real, generated[torch.randperm(count, generator=random)[:size]]) for size in sizes
    ]
    value, slope = fit_line([1 / size for size in sizes], distances)
    return Extrapolation(value, slope, tuple(sizes), tuple(distances))


def fit_line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line through (x, y)."""
    columns = torch.stack([torch.ones(len(x)), torch.tensor(x)], dim=1).double()
    solution = torch.linalg.lstsq(columns, torch.tensor(y).double()[:, None]).solution[:, 0]
    return float(solution[0]), float(solution[1])


def is_reliable(count: int, dim: int) -> bool:
    """False where a Frechet distance of `count` embeddings of width `dim` says more about `count` than about them."""
    return count >= RELIABLE * dim
