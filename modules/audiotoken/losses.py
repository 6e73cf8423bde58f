"""AudioToken's losses in addition to the denoising error: a small token, close to the embedding of its label.

B sounds, D width of the text encoder. The classification loss is in the paper; the published code cannot run it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenLosses(NamedTuple):
    """Scalars."""

    l1: Tensor  # mean absolute value
    l2: Tensor  # mean over the sounds of the squared norm
    classification: Tensor  # (1 - mean cosine similarity with the label)^2


def token_losses(token: Tensor, label: Tensor, across: Callable[[Tensor], Tensor] = lambda mean: mean) -> TokenLosses:
    """Compute the losses of a batch, in float32.

    Args:
        token: (B, D).
        label: (B, D) mean embedding of each label's words; zeros without a label, which gives no gradient.
        across: mean over all processes of a process's mean, without gradient, because the square is not linear.
    """
    token, label = token.float(), label.float()
    cosine = torch.where(label.any(dim=1), F.cosine_similarity(token, label, dim=1), 1.0).mean()
    cosine = cosine + (across(cosine.detach()) - cosine.detach())
    return TokenLosses(token.abs().mean(), token.square().sum(dim=1).mean(), (1 - cosine).square())


@torch.no_grad()
def label_vector(label: str | None, tokenizer: Any, text_encoder: nn.Module) -> Tensor:
    """Mean embedding (D,) of a label's words; zeros without a label."""
    table = text_encoder.get_input_embeddings().weight  # type: ignore[operator]
    ids = tokenizer(label, add_special_tokens=False).input_ids if label and label.strip() else []
    if not ids:
        return table.new_zeros(table.shape[1])
    return table[torch.tensor(ids, device=table.device)].mean(dim=0)
