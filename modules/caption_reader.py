"""Auxiliary heads that train a text encoder: they predict a caption's events and are discarded afterwards.

B captions, L tokens, D width, K kinds, T time steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

HEADS = {"kind": 1, "count": 4, "pitch": 3, "loudness": 3, "direction": 3, "relation": 3}  # classes; kind: K + "none"


class CaptionReading(NamedTuple):
    """Logits of the heads."""

    activity: Tensor  # (B, K, T) one for each kind and time step
    slots: dict[str, Tensor]  # head -> (B, 2, classes) for the first and the second event


class CaptionReader(nn.Module):
    """Learned queries that attend to the text states: one for each time step and two event slots."""

    def __init__(self, width: int, kinds: int, steps: int) -> None:
        super().__init__()
        self.time = nn.Parameter(torch.randn(steps, width))
        self.slot = nn.Parameter(torch.randn(2, width))
        self.attend_time = nn.MultiheadAttention(width, 4, batch_first=True)
        self.attend_slot = nn.MultiheadAttention(width, 4, batch_first=True)
        self.activity = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, kinds))
        sizes = HEADS | {"kind": kinds + 1}
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, states: Tensor, mask: Tensor) -> CaptionReading:
        """Predict from states (B, L, D) and a mask (B, L) with 1 for text."""
        batch, padding = len(states), mask == 0
        time = self.time.expand(batch, -1, -1)                                      # (B, T, D)
        slot = self.slot.expand(batch, -1, -1)                                      # (B, 2, D)
        time, _ = self.attend_time(time, states, states, key_padding_mask=padding)  # (B, T, D)
        slot, _ = self.attend_slot(slot, states, states, key_padding_mask=padding)  # (B, 2, D)
        return CaptionReading(self.activity(time).mT, {name: head(slot) for name, head in self.heads.items()})
