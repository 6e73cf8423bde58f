"""Retrieval in a common space: the share of queries with a right answer among the first k."""

from torch import Tensor

from sonolume.modules.metrics.embeddings import rank_distribution, ranks

RECALLS = (1, 5, 10)


def recalls(similarity: Tensor, right: Tensor, way: str) -> dict[str, float]:
    """Compute "R@k_{way}" for each of `RECALLS`, and "chance_R@k_{way}" for answers in random order.

    Args:
        similarity: (queries, answers).
        right: (queries, answers) bool, several answers of a query may be right. Ties count as wrong.
    """
    found, random = ranks(similarity, right), rank_distribution(right)
    shares = {f"R@{k}_{way}": float((found <= k).double().mean()) for k in RECALLS}
    return shares | {f"chance_R@{k}_{way}": float(random[:k].sum()) for k in RECALLS}
