"""The losses of AudioToken beside the denoising error: a small token, and one that means what the label says.

B sounds, D width of the text encoder. The classification loss is in the paper; the published code cannot run it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenLosses(NamedTuple):
    l1: Tensor  # mean absolute value
    l2: Tensor  # mean over the sounds of the squared norm
    classification: Tensor  # (1 - mean cosine with the label's words)^2


def token_losses(token: Tensor, label: Tensor, across: Callable[[Tensor], Tensor] = lambda mean: mean) -> TokenLosses:
    """Scalars, in float32.

    Args:
        token: (B, D).
        label: (B, D) the mean embedding of each label's words; zeros where there is none, which pulls nowhere.
        across: the mean over all processes of a process's mean, without gradient: the square is not linear.
    """
    token, label = token.float(), label.float()
    cosine = torch.where(label.any(dim=1), F.cosine_similarity(token, label, dim=1), 1.0).mean()
    cosine = cosine + (across(cosine.detach()) - cosine.detach())
    return TokenLosses(token.abs().mean(), token.square().sum(dim=1).mean(), (1 - cosine).square())


@torch.no_grad()
def label_vector(label: str | None, tokenizer: Any, text_encoder: nn.Module) -> Tensor:
    """(D,) the mean of the embeddings of the label's words; zeros for no label."""
    table = text_encoder.get_input_embeddings().weight  # type: ignore[operator]
    ids = tokenizer(label, add_special_tokens=False).input_ids if label and label.strip() else []
    if not ids:
        return table.new_zeros(table.shape[1])
    return table[torch.tensor(ids, device=table.device)].mean(dim=0)
