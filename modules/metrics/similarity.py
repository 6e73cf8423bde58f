"""Metrics on embeddings of pairs: CLAP score, CLIP score, picture to picture, and the ranks AIS and IIS.

Row i of one side belongs to row i of the other.
"""

from torch import Tensor

from sonolume.modules.metrics.embeddings import check_embeddings


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each pair, (N,), from (N, d) twice; -1 to 1, not cut at 0 and not scaled by 100.

    CLAP score: a sounds, b texts. CLIP score: a pictures, b texts. IIS as a raw cosine: both pictures.

    Raises:
        ValueError: other shapes, NaN, or an embedding of length 0.
    """
    _check_pairs(a, b)
    return (_unit(a) * _unit(b)).sum(dim=1)


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every a with every b, (N, M).

    Raises:
        ValueError: as `cosines`.
    """
    check_embeddings(b, check_embeddings(a).shape[1])
    return _unit(a) @ _unit(b).T


def rank_share(similarity: Tensor) -> Tensor:
    """For each row of (N, N), the share of the other columns that are less similar than its own (the diagonal), (N,).

    Chance is 0.5; a tie counts one half. AIS: rows pictures, columns sounds. IIS: rows generated pictures, columns
    true ones (the form of SonicDiffusion's evaluation; AudioToken's own was never released).

    Raises:
        ValueError: not square, or fewer than two.
    """
    count = len(similarity)
    if similarity.shape != (count, count) or count < 2:
        raise ValueError(f"ranks need a square matrix of at least 2 pairs, got {tuple(similarity.shape)}")
    own = similarity.diagonal()[:, None]
    less = (similarity < own).sum(dim=1).double()
    equal = (similarity == own).sum(dim=1).double() - 1  # itself
    return (less + equal / 2) / (count - 1)


def _check_pairs(a: Tensor, b: Tensor) -> None:
    check_embeddings(b, check_embeddings(a).shape[1])
    if len(a) != len(b):
        raise ValueError(f"{len(a)} embeddings cannot be paired with {len(b)}")


def _unit(x: Tensor) -> Tensor:
    lengths = x.double().norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError("an embedding of length 0 has no direction")
    return x.double() / lengths
