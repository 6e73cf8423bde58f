"""Text states that sounds learn: those of a frozen text encoder without the start state, padded to one length.

B texts, K states of a text without its start state, D text width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Tokens(Dataset[Tensor]):
    """Ids and mask (2, K + 1) of texts, which are cut and padded to this length as in the published training."""

    def __init__(self, texts: Sequence[str], tokenizer: Any, length: int, uses_mask: bool) -> None:
        self.texts, self.tokenizer, self.length, self.uses_mask = texts, tokenizer, length, uses_mask

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> Tensor:
        tokens = self.tokenizer(self.texts[number], truncation=True, padding="max_length", max_length=self.length)
        mask = tokens.attention_mask if self.uses_mask else [1] * self.length
        return torch.tensor([tokens.input_ids, mask])

    def versions(self) -> list[Any]:
        """Everything that decides the tokens, for the key of a cache."""
        return [self.length, self.uses_mask, len(self.tokenizer), self.tokenizer.pad_token_id, list(self.texts)]


def encode(text_encoder: Any, tokens: Tensor) -> Tensor:
    """Encode ids with masks (B, 2, K + 1) -> text states (B, K, D) without the start state."""
    ids, mask = tokens.unbind(dim=1)                                                          # (B, K + 1) each
    return text_encoder(ids, attention_mask=mask).last_hidden_state[:, 1:]
