"""How high the right answer ranks among all: recall at k, median rank, mean reciprocal rank."""

import torch
from torch import Tensor


def ranks(similarity: Tensor, right: Tensor | None = None) -> Tensor:
    """Rank (1 = best) of the best right answer of each query, (N,), from similarities (N queries, M answers).

    Ties count against it: an encoder that gives one number to everything must not score.

    Args:
        right: (N, M) bool, the right answers of each query; default: the diagonal of a square matrix.

    Raises:
        ValueError: no `right` for a matrix that is not square, or a query without a right answer.
    """
    count, answers = similarity.shape
    if right is None:
        if count != answers:
            raise ValueError(f"{count} queries and {answers} answers are not paired: say which are right")
        right = torch.eye(count, dtype=torch.bool, device=similarity.device)
    if not right.any(dim=1).all():
        raise ValueError("a query has no right answer")
    best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)  # (N, 1)
    return 1 + ((similarity >= best) & ~right).sum(dim=1)


def recall_at(found: Tensor, k: int) -> Tensor:
    """(N,) 1.0 where the rank is at most k; its mean is R@k."""
    return (found <= k).double()


def mean_reciprocal_rank(found: Tensor) -> float:
    return float((1 / found.double()).mean())


def median_rank(found: Tensor) -> float:
    return float(found.double().quantile(0.5))


def by_chance(right: Tensor) -> Tensor:
    """(M,) how likely ranks 1 to M are where answers come in random order, the mean over the queries.

    Args:
        right: (N, M) bool, the right answers of each query, at least one.
    """
    answers = right.shape[1]
    several, queries = right.sum(dim=1).unique(return_counts=True)
    passed = torch.arange(answers, dtype=torch.float64)                                 # wrong answers seen before
    wrong = (answers - several[:, None] - passed).clamp(min=0)                          # and those still to come
    later = (wrong / (answers - passed)).cumprod(dim=1)                                 # rank above 1, 2 ... M
    likely = torch.cat([torch.ones(len(several), 1).double(), later[:, :-1]], dim=1) - later
    return (likely * queries[:, None]).sum(dim=0) / len(right)
