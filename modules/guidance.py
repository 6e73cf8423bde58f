"""Classifier-free guidance: its scale, rescaling against overexposure, and interval."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).

    Raises:
        ValueError: rescale or interval out of range.
    """

    scale: float  # 1 is no guidance
    # how far to bring the deviation back to the conditional prediction's, 0 to 1 (Lin et al. 2023, arXiv 2305.08891)
    rescale: float = 0.0
    # noise times, 0 (clean) to 1 (noise), outside of which only the conditional branch is computed (Kynkaanniemi et al.
    # 2024, arXiv 2404.07724)
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance_rescale must be from 0 to 1, got {self.rescale:g}")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance_interval must be LOW HIGH with 0 <= LOW < HIGH <= 1, got {low:g} {high:g}")

    @property
    def is_used(self) -> bool:
        return self.scale != 1

    def is_on(self, time: float) -> bool:
        """True if a step at this time, from 0 (clean) to 1 (noise), needs the unconditional branch."""
        return self.is_used and self.interval[0] <= time <= self.interval[1]

    def combine(self, unconditional: Tensor, conditional: Tensor) -> Tensor:
        """Predictions (B, ...) of both branches -> the guided prediction (Lin et al. 2023, equations 14 to 16)."""
        guided = unconditional + self.scale * (conditional - unconditional)
        if not self.rescale:
            return guided
        axes = tuple(range(1, guided.ndim))
        ratio = conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp(min=1e-8)
        return guided * (1 + self.rescale * (ratio - 1))


class TextStates(NamedTuple):
    """Hidden states of B texts, behind those of their negative texts where guidance is used."""

    states: Tensor  # (2B, L, D) or (B, L, D)
    mask: Tensor | None  # (2B, L) or (B, L), 1 for text, 0 for padding; None: padding is attended to
    size: int  # B

    def rows(self, texts: Tensor) -> "TextStates":
        """States of the texts (b,) by their index, and of their negative texts."""
        rows = torch.arange(len(self.states), device=texts.device).unflatten(0, (-1, self.size))[:, texts].flatten()
        return TextStates(self.states[rows], None if self.mask is None else self.mask[rows], len(texts))

    def conditional(self) -> "TextStates":
        """States without those of the negative texts."""
        mask = None if self.mask is None else self.mask[-self.size :]
        return TextStates(self.states[-self.size :], mask, self.size)
