"""Batches of the latent diffusion model: moments of latents with text states, or with tokens that are encoded later."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sonolume.models.tta.audioldm.components import TextEncoder

Item = tuple[Tensor, Tensor, int]  # moments (2z, h, w), text states (L, D) or tokens (L,), number without padding


class Batch(NamedTuple):
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    states: Tensor  # (B, L, D) text states; at padding zeros, or T5's outputs with `text_mask` off
    mask: Tensor  # (B, L) 1 for text


class TokenBatch(NamedTuple):
    """A batch whose texts are encoded in the training step."""

    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L) 1 for text

    @torch.no_grad()
    def encode(self, text: "TextEncoder") -> Batch:
        """Compute the text states, on the device of the text encoder."""
        states = text.model(self.tokens, attention_mask=self.mask).last_hidden_state                # (B, L, D)
        if text.masked:
            states = states * self.mask[..., None]
        return Batch(self.moments, states.to(self.moments), self.mask)


def collate(items: Sequence[Item], padding: int = 0) -> Batch | TokenBatch:
    """Pad to the longest caption of the batch; `padding` is the token that pads."""
    moments, texts, counts = zip(*items, strict=True)
    if texts[0].ndim == 1:
        tokens = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True, padding_value=padding)   # (B, L)
        return TokenBatch(torch.stack(moments), tokens, text_mask(counts))
    return Batch(torch.stack(moments), *pad_states(texts, counts))


def pad_states(states: Sequence[Tensor], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Text states (l, D) of texts with `counts` tokens each -> padded (B, L, D), and mask (B, L), 1 for text."""
    longest = max(counts)
    padded = torch.nn.utils.rnn.pad_sequence([state[:longest] for state in states], batch_first=True)
    return padded, text_mask(counts)


def text_mask(counts: Sequence[int]) -> Tensor:
    """Mask (B, L) of texts with `counts` tokens each, 1 for text, int64."""
    return (torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]).long()
