"""Metrics of pairs, rows i of two sides: cosine, rank among all others, retrieval, divergence of classes, accuracy.

N pairs, d width of an embedding, K classes.
"""

import torch
from torch import Tensor
from torchmetrics.functional.regression import kl_divergence

from sonolume.modules.metrics.distribution import MIN_PROBABILITY, check_embeddings


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
