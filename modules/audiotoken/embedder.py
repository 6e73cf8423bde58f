"""AudioToken's trained network: from audio features to one token in the space of a text encoder's embeddings.

B sounds, T tokens in time, C channels of the features, D width of the text encoder. Parameter names are the official
ones.
"""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F


class AudioTokenEmbedder(ModelMixin, ConfigMixin):
    """Two linear layers and attention pooling (Yariv et al. 2023, arXiv 2305.13050).

    Args:
        input_size: C; 2304 = three layers of BEATs.
        output_size: D; 768 for Stable Diffusion 1, 1024 for Stable Diffusion 2.
        dropout: inside the pooling, in training only.
    """

    @register_to_config
    def __init__(self, input_size: int = 2304, output_size: int = 768, dropout: float = 0.5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(input_size, input_size)
        self.fc2 = nn.Linear(input_size, output_size)
        self.fga = AttentionPooling(output_size, dropout)

    def forward(self, features: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Embed features (B, T, C) -> (B, D).

        Args:
            seeds: (B,) of each item's dropout; default: torch's global random numbers.
        """
        return self.fga(self.fc2(F.gelu(self.fc1(features))), seeds)


class AttentionPooling(nn.Module):
    """Factor graph attention with one utility (Schwartz et al. 2019): a weighted mean over time.

    The weights are a softmax over time of two potentials of each token.

    Args:
        width: D.
        dropout: of the unary potential, in training only. The official code leaves it on at inference, where it changes
            the result by a tenth from call to call.
    """

    def __init__(self, width: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.un_models = nn.ModuleList([Unary(width, dropout)])
        self.pp_models = nn.ModuleList([SelfAgreement(width)])
        self.reduce_potentials = nn.ModuleList([nn.Conv1d(2, 1, 1, bias=False)])

    def forward(self, tokens: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Pool tokens (B, T, D) -> (B, D); `seeds` as in `AudioTokenEmbedder`."""
        x = tokens.transpose(1, 2)                                                           # (B, D, T)
        potentials = torch.cat([self.un_models[0](x, seeds), self.pp_models[0](x)], dim=1)   # (B, 2, T)
        weights = self.reduce_potentials[0](potentials)[:, 0].softmax(dim=1)                 # (B, T)
        return torch.einsum("bt,btd->bd", weights.to(tokens.dtype), tokens)                  # (B, D)


class Unary(nn.Module):
    """Potential of each token by itself."""

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
        return self.feature_reduce(hidden * dropout_mask(seeds, hidden, self.dropout.p))


def dropout_mask(seeds: Tensor, like: Tensor, p: float) -> Tensor:
    """Dropout mask (B, D, T) of zeros and 1 / (1 - p), each item drawn from its own seed, equally on every device."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    drawn = torch.stack([torch.rand(like.shape[1:], generator=generator) for generator in generators])
    return ((drawn >= p) / (1 - p)).to(like)


class SelfAgreement(nn.Module):
    """Agreement of each token with all tokens: the mean over s of <x_t, y_s> is <x_t, mean of y>, so O(T)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed_X = nn.Conv1d(width, width, 1)
        self.embed_Y = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, 1, T)."""
        queries = F.normalize(self.embed_X(x), dim=1)                 # (B, D, T)
        keys = F.normalize(self.embed_Y(x), dim=1).mean(dim=2)        # (B, D)
        return torch.einsum("bdt,bd->bt", queries, keys)[:, None]     # (B, 1, T)
