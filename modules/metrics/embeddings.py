"""What every metric on embeddings shares."""

from torch import Tensor, nn


class Given(nn.Module):
    """torchmetrics' feature extractor for embeddings that are computed already.

    Args:
        dim: their width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings


def check_embeddings(embeddings: Tensor, dim: int | None = None) -> Tensor:
    """The same tensor, made sure to be (N, d) with N > 0, finite, and of width `dim` if that is given.

    Raises:
        ValueError: it is not; says what it is.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(f"embeddings must be (N, d) with N > 0, got {tuple(embeddings.shape)}")
    if dim is not None and embeddings.shape[1] != dim:
        raise ValueError(f"embeddings of width {embeddings.shape[1]} cannot be compared with those of width {dim}")
    bad = (~embeddings.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"embeddings {bad[:5]} of {len(embeddings)} hold NaN or infinite values")
    return embeddings
