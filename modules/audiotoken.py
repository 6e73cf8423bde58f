"""AudioToken (Yariv et al. 2023, arXiv 2305.13050): network, injection of its token into a prompt, and losses.

The network maps audio features to one vector in the space of a text encoder's embeddings. A stock CLIP text encoder
reads it in the place of the word `<*>`. B sounds, T tokens in time, C channels of the features, D width of the text
encoder, L tokens and K vectors of a prompt. Parameter names are the official ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.config.audio_to_image import PLACEHOLDER

PLACEHOLDER_ID = -1  # in ids, in the place of a vector; not a token of any vocabulary


class AudioTokenEmbedder(ModelMixin, ConfigMixin):
    """Two linear layers and attention pooling.

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
        """Embed features (B, T, C) -> (B, D); `seeds` (B,) of each item's dropout default to torch's global state."""
        return self.fga(self.fc2(F.gelu(self.fc1(features))), seeds)


class AttentionPooling(nn.Module):
    """Factor graph attention with one utility (Schwartz et al. 2019): a weighted mean over time.

    The weights are a softmax over time of two potentials of each token. The official code leaves the dropout of the
    first one on at inference, where it changes the result by a tenth from call to call; here it is off.
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


def tokenise(tokenizer: Any, prompts: Sequence[str], num_tokens: int = 1) -> Tensor:
    """Tokenize prompts into padded ids (B, L), with `num_tokens` times `PLACEHOLDER_ID` in the place of each `<*>`.

    Raises:
        ValueError: a prompt has no placeholder, or is longer than the text encoder's input.
    """
    rows, limit = [], tokenizer.model_max_length
    for prompt in prompts:
        if PLACEHOLDER not in prompt:
            raise ValueError(f"the prompt {prompt!r} has no {PLACEHOLDER}: write it where the sound belongs")
        ids: list[int] = [tokenizer.bos_token_id]
        for number, piece in enumerate(prompt.split(PLACEHOLDER)):
            ids += [PLACEHOLDER_ID] * num_tokens * bool(number)
            ids += tokenizer(piece, add_special_tokens=False).input_ids if piece.strip() else []
        ids.append(tokenizer.eos_token_id)
        if len(ids) > limit:
            raise ValueError(f"the prompt {prompt!r} has {len(ids) - 2} tokens, the text encoder reads {limit - 2}: "
                             "shorten it")  # fmt: skip
        rows.append(ids + [tokenizer.pad_token_id] * (limit - len(ids)))
    return torch.tensor(rows)


def inject(text_encoder: Any, ids: Tensor, vectors: Tensor, num_tokens: int = 1) -> Any:
    """Run the text encoder with `vectors` at the placeholders, and return its output (`last_hidden_state` (B, L, D)).

    A forward hook replaces the input embeddings of the placeholders for one call: no table is resized, no weight
    changes, and the gradient reaches the vectors.

    Args:
        text_encoder: transformers' CLIPTextModel.
        ids: (B, L) with `PLACEHOLDER_ID` in the place of each vector.
        vectors: (B, K, D), those of one sound or of several. A prompt has K placeholders, which take the vectors in
            their order; with one sound, K = `num_tokens`, it may have a multiple of K, which repeat them.
        num_tokens: vectors of one sound.

    Raises:
        ValueError: a prompt has no placeholder, or their number or the width does not fit the vectors.
    """
    embeddings, mask, needed = text_encoder.get_input_embeddings(), ids == PLACEHOLDER_ID, vectors.shape[1]
    width, counts = embeddings.weight.shape[1], mask.sum(dim=1)
    if vectors.shape[0] != len(mask) or vectors.shape[2] != width:
        raise ValueError(f"{len(mask)} prompts of width {width} cannot take vectors of shape {tuple(vectors.shape)}")
    wrong = (counts == 0) | (counts % needed != 0) if needed == num_tokens else counts != needed
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"prompt {row} has {int(counts[row])} placeholders for {needed} vectors")
    place = (mask.cumsum(dim=1) - 1) % needed                                         # (B, L)
    spread = vectors.gather(1, place[..., None].expand(-1, -1, width))                # (B, L, D)
    any_word = int(text_encoder.config.bos_token_id or 0)  # its embedding is replaced

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.where(mask[..., None], spread.to(output.dtype), output)

    hook = embeddings.register_forward_hook(replace)
    try:
        return text_encoder(ids.masked_fill(mask, any_word))
    finally:
        hook.remove()


class TokenLosses(NamedTuple):
    l1: Tensor  # mean absolute value
    l2: Tensor  # mean over the tokens of the squared norm
    classification: Tensor  # (1 - mean cosine similarity with the label)^2


def token_losses(token: Tensor, label: Tensor, across: Callable[[Tensor], Tensor] = lambda mean: mean) -> TokenLosses:
    """Losses in addition to the denoising error, in float32: small tokens, close to the embedding of their label.

    The classification loss is in the paper; the published code cannot run it.

    Args:
        token: (B, D), or (B, K, D) with K tokens of each sound, whose mean is compared with the label.
        label: (B, D) mean embedding of each label's words; zeros without a label, which gives no gradient.
        across: mean over all processes of a process's mean, without gradient, because the square is not linear.
    """
    token, label = token.float(), label.float()
    mean = token if token.ndim == 2 else token.mean(dim=1)                            # (B, D)
    cosine = torch.where(label.any(dim=1), F.cosine_similarity(mean, label, dim=1), 1.0).mean()
    cosine = cosine + (across(cosine.detach()) - cosine.detach())
    return TokenLosses(token.abs().mean(), token.square().sum(dim=-1).mean(), (1 - cosine).square())


@torch.no_grad()
def label_vector(label: str | None, tokenizer: Any, text_encoder: Any) -> Tensor:
    """Mean embedding (D,) of a label's words; zeros without a label."""
    table = text_encoder.get_input_embeddings().weight
    ids = tokenizer(label, add_special_tokens=False).input_ids if label and label.strip() else []
    if not ids:
        return table.new_zeros(table.shape[1])
    return table[torch.tensor(ids, device=table.device)].mean(dim=0)
