"""Metrics of embeddings: distances between two sets, the inception score of one, and metrics of pairs.

The Frechet distance is called FAD for sounds, FID for pictures. Pairs are rows i of two sides: cosine, rank among all
others, retrieval, divergence of classes, accuracy. N and M samples, N pairs, d width of an embedding, K classes.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchmetrics.functional.regression import kl_divergence
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

    A finite sample makes the distance too large by about slope / N. Returns the distance and the subset sizes, evenly
    spaced from half of N (but more than d where N allows it) to N. Raises a ValueError for fewer than 4 generated
    samples, and as `frechet_distance`.
    """
    count, dim = generated.shape
    if count < 4:
        raise ValueError(f"an extrapolation needs at least 4 generated embeddings, got {count}")
    first = min(max(count // 2, dim + 1), max(2, count - POINTS))
    sizes = sorted({int(size) for size in torch.linspace(first, count, POINTS).round().tolist()})
    random = torch.Generator().manual_seed(0)
    subsets = [generated[torch.randperm(count, generator=random)[:size]] for size in sizes]
    distances = torch.tensor([[frechet_distance(real, subset)] for subset in subsets], dtype=torch.float64)
    inverse = 1 / torch.tensor(sizes, dtype=torch.float64)
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(inverse), inverse], dim=1), distances).solution
    return float(line[0]), sizes


def kernel_distance(real: Tensor, generated: Tensor, subset_size: int = 1000) -> tuple[float, float]:
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y / d + 1)^3 (Binkowski et al. 2018).

    Returns mean and standard deviation over 100 subsets: about 0 for equal distributions, possibly negative.
    Sets of equal size up to `subset_size` are compared whole, once. Raises a ValueError as `frechet_distance`.
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


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each pair, (N,), from (N, d) twice; -1 to 1, not cut at 0 and not scaled by 100.

    CLAP score: a sounds, b texts. CLIP score: a pictures, b texts. IIS as a raw cosine: both pictures. Raises a
    ValueError for different shapes, NaN, or an embedding of length 0.
    """
    check_embeddings(b, check_embeddings(a).shape[1])
    if len(a) != len(b):
        raise ValueError(f"{len(a)} embeddings cannot be paired with {len(b)}")
    return (_normalised(a) * _normalised(b)).sum(dim=1)


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every a with every b, (N, M); errors as `cosines`."""
    check_embeddings(b, check_embeddings(a).shape[1])
    return _normalised(a) @ _normalised(b).T


def rank_share(similarity: Tensor) -> Tensor:
    """For each row of (N, N), the share of the other columns that are less similar than its own (the diagonal), (N,).

    Chance is 0.5; a tie counts one half. AIS: rows pictures, columns sounds. IIS: rows generated pictures, columns
    true ones (the form of SonicDiffusion's evaluation; AudioToken's own was never released).
    """
    count = len(similarity)
    if similarity.shape != (count, count) or count < 2:
        raise ValueError(f"ranks need a square matrix of at least 2 pairs, got {tuple(similarity.shape)}")
    own = similarity.diagonal()[:, None]
    less = (similarity < own).sum(dim=1).double()
    equal = (similarity == own).sum(dim=1).double() - 1  # without itself
    return (less + equal / 2) / (count - 1)


def ranks(similarity: Tensor, right: Tensor) -> Tensor:
    """Rank (1 = best) of the best of the `right` answers of each query, (N,), from similarities (N queries, M answers).

    Ties count against it: an encoder that maps everything to one point must not score. `right` is (N, M) bool.
    """
    if not right.any(dim=1).all():
        raise ValueError("a query has no right answer")
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # (N, 1)
    return 1 + ((similarity >= best) & ~right).sum(dim=1)


def rank_distribution(right: Tensor) -> Tensor:
    """Probability of ranks 1 to M, (M,), if the answers come in random order; the mean over the queries.

    `right` (N, M) bool marks the right answers of each query, at least one.
    """
    answers = right.shape[1]
    several, queries = right.sum(dim=1).unique(return_counts=True)
    passed = torch.arange(answers, dtype=torch.float64)                                 # wrong answers so far
    wrong = (answers - several[:, None] - passed).clamp(min=0)                          # wrong answers still to come
    later = (wrong / (answers - passed)).cumprod(dim=1)                                 # P(rank > 1), P(rank > 2) ...
    likely = torch.cat([torch.ones(len(several), 1).double(), later[:, :-1]], dim=1) - later
    return (likely * queries[:, None]).sum(dim=0) / len(right)


def paired_divergence(reference: Tensor, generated: Tensor, multilabel: bool = False) -> Tensor:
    """KL(reference | generated) in nats of each pair, (N,), from paired logits (N, K); a ValueError if shapes differ.

    Args:
        multilabel: mean over independent classes (AudioSet taggers) of Bernoulli divergences; else a softmax over the
            classes, as in audioldm_eval's "KL_Softmax".
    """
    if reference.shape != generated.shape or reference.ndim != 2:
        raise ValueError(f"paired logits must be (N, K) twice, got {tuple(reference.shape)}, {tuple(generated.shape)}")
    if multilabel:
        p, q = reference.double().sigmoid(), generated.double().sigmoid()
        yes = p * (p.clamp_min(MIN_PROBABILITY).log() - q.clamp_min(MIN_PROBABILITY).log())
        no = (1 - p) * ((1 - p).clamp_min(MIN_PROBABILITY).log() - (1 - q).clamp_min(MIN_PROBABILITY).log())
        return (yes + no).mean(dim=1)
    p, q = reference.double().log_softmax(1), generated.double().log_softmax(1)
    return kl_divergence(p, q, log_prob=True, reduction="none")


def is_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Test whether the label's logit is the largest, (N,) bool; ties count as wrong."""
    return (logits >= logits.gather(1, labels[:, None])).sum(dim=1) == 1


def _normalised(x: Tensor) -> Tensor:
    lengths = x.double().norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError("an embedding of length 0 has no direction")
    return x.double() / lengths
