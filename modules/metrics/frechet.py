"""Frechet distance between two sets of embeddings: FAD for sounds, FID for pictures, FD on any embedder.

d^2 = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) of two Gaussians (Dowson & Landau 1982; Heusel et al. 2017;
Kilgour et al. 2019 for sound), in float64; the class is torchmetrics', the functions keep more digits of few samples.
"""

from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class Moments:
    """All that the distance takes from a set of embeddings; enough to keep of a reference."""

    mean: Tensor  # (d,) float64
    covariance: Tensor  # (d, d) float64, the sums divided by count - 1
    count: int

    @cached_property
    def root(self) -> Tensor:
        """(d, d), the symmetric root of the covariance.

        The singular values of two roots' product add up to tr((S_1 S_2)^(1/2)); the eigenvalues of S_1 S_2, which
        torchmetrics takes, leave the root of their rounding error in every dimension that few samples do not fill.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    @classmethod
    def of(cls, embeddings: Tensor) -> "Moments":
        """Of (N, d).

        Raises:
            ValueError: another shape, fewer than two rows, NaN.
        """
        if len(embeddings) < 2:
            raise ValueError(f"a Frechet distance needs at least 2 embeddings on each side, got {len(embeddings)}")
        rows = check_embeddings(embeddings).double()
        count, mean = len(rows), rows.mean(dim=0)
        return cls(mean, (rows.T @ rows - count * torch.outer(mean, mean)) / (count - 1), count)


def frechet_distance(real: Tensor | Moments, generated: Tensor | Moments) -> float:
    """Distance of (N, d) from (M, d), both at least two rows, or of their moments; 0 for equal sets.

    Raises:
        ValueError: shapes that do not fit, fewer than two rows, NaN.
    """
    a, b = (side if isinstance(side, Moments) else Moments.of(side) for side in (real, generated))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"embeddings of width {len(b.mean)} cannot be compared with those of width {len(a.mean)}")
    traces = a.covariance.trace() + b.covariance.trace() - 2 * torch.linalg.svdvals(a.root @ b.root).sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + traces))  # rounding may leave -1e-12


@dataclass(frozen=True)
class Extrapolation:
    """A line `value + slope / N` through distances at several sample sizes."""

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(real: Tensor | Moments, generated: Tensor, points: int = 15, seed: int = 0) -> Extrapolation:
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
    real = real if isinstance(real, Moments) else Moments.of(real)
    random = torch.Generator().manual_seed(seed)
    distances = [
        frechet_distance(real, generated[torch.randperm(count, generator=random)[:size]]) for size in sizes
    ]
    value, slope = fit_line([1 / size for size in sizes], distances)
    return Extrapolation(value, slope, tuple(sizes), tuple(distances))


def fit_line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Intercept and slope of the least-squares line through (x, y)."""
    steps = torch.tensor(x, dtype=torch.float64)
    columns = torch.stack([torch.ones_like(steps), steps], dim=1)
    solution = torch.linalg.lstsq(columns, torch.tensor(y, dtype=torch.float64)[:, None]).solution[:, 0]
    return float(solution[0]), float(solution[1])


def is_reliable(count: int, dim: int) -> bool:
    """False where a Frechet distance of `count` embeddings of width `dim` says more about `count` than about them."""
    return count >= RELIABLE * dim
