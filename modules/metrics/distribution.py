"""Distances between two sets of embeddings, Frechet and kernel distance, and the inception score of one set.

N and M samples, d width of an embedding, K classes. The Frechet distance is called FAD for sounds, FID for pictures.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

RELIABLE_RATIO = 2  # samples per dimension, below which the Frechet distance mostly measures the sample size
RELIABLE_COUNT = 100  # samples, below which the kernel distance varies by more than it usually differs
POINTS = 15  # sample sizes of an extrapolation
SUBSETS = 100  # of a kernel distance
MIN_PROBABILITY = 1e-12  # keeps logarithms finite


def check_embeddings(embeddings: Tensor, dim: int | None = None) -> Tensor:
    """Return the same tensor; raises a ValueError unless it is (N, d), N > 0, finite, and of width `dim` if given."""
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"embeddings must be (N, d) with N > 0, got {tuple(embeddings.shape)}")
    if dim is not None and embeddings.shape[1] != dim:
        raise ValueError(f"embeddings of width {embeddings.shape[1]} cannot be compared with embeddings of width {dim}")
    bad = (~embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"embeddings {bad[:5]} of {len(embeddings)} hold NaN or infinite values")
    return embeddings


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of a set of embeddings, which determine its Frechet distances."""

    mean: Tensor  # (d,) float64
    covariance: Tensor  # (d, d) float64, unbiased
    count: int

    @cached_property
    def root(self) -> Tensor:
        """Symmetric root (d, d) of the covariance.

        The singular values of two roots' product sum to tr((S_1 S_2)^(1/2)). The eigenvalues of S_1 S_2, which
        torchmetrics takes, leave the root of their rounding error in every dimension that few samples do not fill.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    @classmethod
    def of(cls, embeddings: Tensor) -> "Moments":
        """Compute the moments of (N, d) in float64; raises a ValueError for fewer than two rows or NaN."""
        if len(embeddings) < 2:
            raise ValueError(f"a Frechet distance needs at least 2 embeddings on each side, got {len(embeddings)}")
        rows = check_embeddings(embeddings).double()
        count, mean = len(rows), rows.mean(dim=0)
        return cls(mean, (rows.T @ rows - count * torch.outer(mean, mean)) / (count - 1), count)


def frechet_distance(real: Tensor | Moments, generated: Tensor | Moments) -> float:
    """Frechet distance of two Gaussians fitted to (N, d) and (M, d), or to their moments; 0 for equal sets.

    d^2 = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017; Kilgour et al.
    2019 for sound). Raises a ValueError for different widths, and as `Moments.of`.
    """
    a, b = (side if isinstance(side, Moments) else Moments.of(side) for side in (real, generated))
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"embeddings of width {len(b.mean)} cannot be compared with embeddings of width {len(a.mean)}")
    traces = a.covariance.trace() + b.covariance.trace() - 2 * torch.linalg.svdvals(a.root @ b.root).sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + traces))  # rounding may leave -1e-12


def frechet_infinity(real: Tensor | Moments, generated: Tensor) -> tuple[float, list[int]]:
    """Frechet distance extrapolated to infinitely many generated samples, by a line in 1/N (Chong & Forsyth 2020).

    A finite sample makes the distance too large by about slope / N. Raises a ValueError for fewer than 4 generated
    samples, and as `frechet_distance`.

    Returns:
        The distance, and the subset sizes, evenly spaced from half of N (but more than d where N allows it) to N.
    """
    count, dim = generated.shape
    if count < 4:
        raise ValueError(f"an extrapolation needs at least 4 generated embeddings, got {count}")
    first = min(max(count // 2, dim + 1), max(2, count - POINTS))
    sizes = sorted({int(size) for size in torch.linspace(first, count, POINTS).round().tolist()})
    real = real if isinstance(real, Moments) else Moments.of(real)
    random = torch.Generator().manual_seed(0)
    subsets = [generated[torch.randperm(count, generator=random)[:size]] for size in sizes]
    distances = torch.tensor([[frechet_distance(real, subset)] for subset in subsets], dtype=torch.float64)
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(inverse), inverse], dim=1), distances).solution
    return float(line[0]), sizes


def kernel_distance(real: Tensor, generated: Tensor, subset_size: int = 1000) -> tuple[float, float]:
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018).

    Sets of equal size up to `subset_size` are compared whole, once. Raises a ValueError as `frechet_distance`.

    Returns:
        Mean and standard deviation over 100 subsets; about 0 for equal distributions, possibly negative.
    """
    check_embeddings(generated, check_embeddings(real).shape[1])
    size = min(subset_size, len(real), len(generated))
    if size < 2:
        raise ValueError(f"a kernel distance needs at least 2 embeddings on each side, got {size}")
    real, generated = real.double(), generated.double()
    if size == len(real) == len(generated):
        return float(poly_mmd(real, generated)), 0.0
    random = torch.Generator().manual_seed(0)
    draw = lambda rows: rows[torch.randperm(len(rows), generator=random)[:size]]  # noqa: E731
    found = torch.stack([poly_mmd(draw(real), draw(generated)) for _ in range(SUBSETS)])
    return float(found.mean()), float(found.std(correction=0))


def inception_score(logits: Tensor) -> float:
    """exp of the mean KL(p(y|x) | p(y)) (Salimans et al. 2016), from 1 (all alike) to K.

    Over all samples at once: the customary 10 splits of few samples make it smaller.
    """
    log_p = logits.double().log_softmax(1)
    marginal = log_p.exp().mean(dim=0, keepdim=True).clamp_min(MIN_PROBABILITY).log()
    return float((log_p.exp() * (log_p - marginal)).sum(dim=1).mean().exp())
