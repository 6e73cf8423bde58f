"""Attention pooling of a sequence into one vector: factor graph attention with one utility (Schwartz et al. 2019).

B sounds, T tokens in time, D channels. Parameter names are the official ones.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Unary(nn.Module):
    """How much each token matters by itself."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Conv1d(width, width, 1)
        self.feature_reduce = nn.Conv1d(width, 1, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, D, T) -> (B, 1, T)."""
        hidden = F.relu(self.embed(x))                                # (B, D, T)
        if seeds is None or not self.training or not self.dropout.p:
            return self.feature_reduce(self.dropout(hidden))
        return self.feature_reduce(hidden * _kept(seeds, hidden, self.dropout.p))


def _kept(seeds: Tensor, like: Tensor, dropout: float) -> Tensor:
    """(B, D, T): 0, or what makes up for the zeros. Of each item from its own seed; on the CPU: equal everywhere."""
    randoms = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    drawn = torch.stack([torch.rand(like.shape[1:], generator=random) for random in randoms])
    return ((drawn >= dropout) / (1 - dropout)).to(like)


class SelfAgreement(nn.Module):
    """How much each token agrees with all tokens: the mean over s of <x_t, y_s> is <x_t, mean of y>, so O(T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed_X = nn.Conv1d(width, width, 1)
        self.embed_Y = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, 1, T)."""
        ours = F.normalize(self.embed_X(x), dim=1)                    # (B, D, T)
        theirs = F.normalize(self.embed_Y(x), dim=1).mean(dim=2)      # (B, D)
        return torch.einsum("bdt,bd->bt", ours, theirs)[:, None]      # (B, 1, T)


class AttentionPooling(nn.Module):
    """(B, T, D) -> (B, D): the tokens' mean, weighted by a softmax over time of their two potentials.

    Args:
        width: D.
        dropout: of the unary potential, in training only. The official code leaves it on at inference, where it moves
            the result by a tenth from call to call.
    """

    def __init__(self, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.un_models = nn.ModuleList([Unary(width, dropout)])
        self.pp_models = nn.ModuleList([SelfAgreement(width)])
        self.reduce_potentials = nn.ModuleList([nn.Conv1d(2, 1, 1, bias=False)])

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, D).

        Args:
            seeds: (B,) of each item's dropout; default: torch's global random numbers.
        """
        x = tokens.transpose(1, 2)                                                           # (B, D, T)
        potentials = torch.cat([self.un_models[0](x, seeds), self.pp_models[0](x)], dim=1)   # (B, 2, T)
        weights = self.reduce_potentials[0](potentials)[:, 0].softmax(dim=1)                 # (B, T)
        return torch.einsum("bt,btd->bd", weights.to(tokens.dtype), tokens)                  # (B, D)
