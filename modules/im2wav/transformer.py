"""Decoder-only transformer over a token sequence of fixed length, with a condition at every position.

Conditions enter without cross-attention: a start vector in place of a token before the first, and one vector for each
position, added to the input and again before the logits. B clips, T positions, W width, K codes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sonolume.modules.im2wav.attention import PATTERNS, Attention, Cursor, Grid


class Condition(NamedTuple):
    start: Tensor  # (B, W)
    positions: Tensor  # (B, T, W)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """h + a + m with a = attention(norm h), m = MLP(norm(h + a))."""

    def __init__(self, width: int, inner: int, hidden: int, attention: Attention) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), QuickGELU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor, cache: Tensor | None = None, length: int = 0) -> Tensor:
        h = h + self.attention(self.norm1(h), cache, length)
        return h + self.mlp(self.norm2(h))

    def step(self, h: Tensor, cache: Tensor, cursor: Cursor) -> Tensor:
        h = h + self.attention.step(self.norm1(h), cache, cursor)
        return h + self.mlp(self.norm2(h))


class TokenTransformer(nn.Module):
    """Autoregressive model of a token sequence; the output layer is tied to the token embedding.

    Args:
        codes: K.
        positions: T.
        width: W.
        depth: number of layers; the attention patterns alternate.
        heads: number of attention heads.
        blocks: N, blocks of the attention grid; divides T.
        attention_ratio: size of queries, keys and values relative to W.
        mlp_ratio: size of the MLP's hidden layer relative to W.
        init_scale: factor on the initial standard deviation of 0.02.

    Attributes:
        recompute: gradient checkpointing of every layer.
        output: the product with the token embedding, where a layer replaces it (`linear.py`, `quantized.py`).
    """

    output: nn.Module | None

    def __init__(
        self, codes: int, positions: int, width: int, depth: int, heads: int, blocks: int,
        attention_ratio: float, mlp_ratio: float, init_scale: float,
    ) -> None:  # fmt: skip
        super().__init__()
        if positions % blocks:
            raise ValueError(f"{positions} positions are not divisible into {blocks} blocks")
        self.recompute = False
        self.grid = Grid(blocks, positions // blocks)
        inner, hidden = int(attention_ratio * width), int(mlp_ratio * width)
        self.tokens = nn.Embedding(codes, width)
        self.register_module("output", None)
        self.places = nn.Parameter(torch.zeros(positions, width))
        patterns = [PATTERNS[layer % len(PATTERNS)](self.grid) for layer in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, inner, hidden, Attention(width, inner, heads, pattern)) for pattern in patterns
        )
        self._initialise(0.02 * init_scale)

    def _initialise(self, deviation: float) -> None:
        nn.init.normal_(self.places, std=deviation / 2)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=deviation)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, condition: Condition) -> Tensor:
        """Logits (B, T, K) float32 of every token (B, T) given the tokens before it."""
        h = self._inputs(tokens, condition)                                            # (B, T, W)
        for block in self.blocks:
            recompute = self.recompute and torch.is_grad_enabled()
            h = checkpoint(block, h, use_reentrant=False) if recompute else block(h)
        return self._logits(h, condition.positions)

    def fill(self, caches: list[Tensor], length: int, tokens: Tensor, condition: Condition) -> None:
        """Fill the caches of `new_caches` with the first `length` positions of tokens (B, T), in parallel."""
        h = self._inputs(tokens, condition)
        for block, cache in zip(self.blocks, caches, strict=True):
            h = block(h, cache, length)

    def step(self, previous: Tensor, position: Tensor, condition: Condition, caches: list[Tensor]) -> Tensor:
        """Logits (B, K) float32 of one position, with fixed shapes and without host sync.

        Args:
            previous: (B,) int64, previous tokens; ignored at position 0.
            position: (1,) int64.
            condition: conditions of the B clips at all positions.
            caches: keys and values of all earlier positions; those of this position are added.
        """
        cursor = self.grid.cursor(position, self.places.dtype)
        added = condition.positions.index_select(1, position)[:, 0]                    # (B, W)
        h = torch.where(position == 0, condition.start, self.tokens(previous))         # (B, W)
        h = h + self.places.index_select(0, position) + added
        for block, cache in zip(self.blocks, caches, strict=True):
            h = block.step(h, cache, cursor)  # type: ignore[operator]
        return self._logits(h, added)

    def new_caches(self, batch: int) -> list[Tensor]:
        """Zeroed key-value caches (M, B, 2, H, d) of every layer; M depends on the pattern."""
        attentions = [block.attention for block in self.blocks]
        sizes = [(a.pattern.cache_length, batch, 2, a.heads, a.head_size) for a in attentions]  # type: ignore[union-attr]
        return [self.places.new_zeros(size) for size in sizes]  # type: ignore[arg-type]

    def _inputs(self, tokens: Tensor, condition: Condition) -> Tensor:
        before = self.tokens(tokens[:, :-1])                                           # (B, T - 1, W)
        h = torch.cat([condition.start[:, None].to(before), before], dim=1)            # (B, T, W)
        return h + self.places + condition.positions

    def _logits(self, h: Tensor, added: Tensor) -> Tensor:
        if self.output is not None:
            return self.output(h + added).float()
        return F.linear(h + added, self.tokens.weight.to(h.dtype)).float()


def bits_per_token(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in bits; logits (B, T, K), tokens (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten()) / math.log(2)
