"""Sparse causal self-attention in three patterns (Sparse Transformers, Child et al. 2019, arXiv 1904.10509).

The T positions form N blocks of size S; position t has offset i = t mod S in block b = t // S. The query of position t
attends to
  own block:       positions of block b up to t,
  column:          positions of offset i in all blocks up to b,
  previous block:  all positions of block b - 1; in block 0 the attention output is 0.
Training runs each pattern as dense attention on reshaped tensors; sampling runs it step by step with a cache of fixed
shape, bounded by the pattern. B clips, W width, H heads, d head size, M length of the cache. A cache is one tensor
(M, B, 2, H, d) of keys and values, so that a step writes one position, and selects the keys of its query, in one piece.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cursor(NamedTuple):
    """Indices of one position as tensors on the device, so that a step needs no host sync; (1,) int64 and two masks.

    The masks are added to the scores: 0 for a key that the query attends to, -inf for others.
    """

    offset: Tensor  # i
    row: Tensor  # i * N + b, index in a cache sorted by offset
    turn: Tensor  # (b mod 2) * S + i, index in a cache of two blocks
    previous: Tensor  # (b + 1) mod 2, half of that cache with block b - 1
    in_block: Tensor  # (1, S), offsets up to i
    in_column: Tensor  # (1, N), blocks up to b


class Grid(NamedTuple):
    """Shape of the T = blocks * size positions."""

    blocks: int
    size: int

    def cursor(self, position: Tensor, dtype: torch.dtype = torch.float32) -> Cursor:
        """Indices of a position (1,) int64, and masks of the type of the queries."""
        offset, block = position % self.size, position // self.size
        return Cursor(
            offset=offset,
            row=offset * self.blocks + block,
            turn=block % 2 * self.size + offset,
            previous=(block + 1) % 2,
            in_block=_mask(self.size, offset, dtype),
            in_column=_mask(self.blocks, block, dtype),
        )


def _mask(count: int, last: Tensor, dtype: torch.dtype) -> Tensor:
    """(1, count): 0 up to `last`, -inf after it."""
    later = torch.arange(count, device=last.device) > last
    return torch.zeros(1, count, dtype=dtype, device=last.device).masked_fill(later, -torch.inf)


def _keys_and_values(cache: Tensor) -> tuple[Tensor, Tensor]:
    """(M, B, 2, H, d) -> views (B, H, M, d)."""
    k, v = cache.permute(2, 1, 3, 0, 4).unbind(0)
    return k, v


def _to_cache(kv: Tensor) -> Tensor:
    """(2, B, H, T, d) -> (T, B, 2, H, d)."""
    return kv.permute(3, 1, 0, 2, 4)


def attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
    """Scaled dot-product attention; (..., T, d) each.

    Training on a CPU uses separate operations: the backward pass of PyTorch's fused kernel is slower there.
    """
    if q.device.type != "cpu" or not (torch.is_grad_enabled() and q.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    scores = q @ k.mT * q.shape[-1] ** -0.5                                                        # (..., T, T)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v                                                  # (..., T, d)


class Pattern(Protocol):
    """One attention pattern on a grid; q, k, v are (B, H, T, d), a cache is (M, B, 2, H, d)."""

    cache_length: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All positions at once -> (B, H, T, d)."""
        ...

    def fill(self, cache: Tensor, kv: Tensor, length: int) -> None:
        """Fill a zeroed cache with the first `length` positions of kv (2, B, H, T, d)."""
        ...

    def step(self, q: Tensor, kv: Tensor, cache: Tensor, cursor: Cursor) -> Tensor:
        """Store kv (1, B, 2, H, d) of one position and attend: q (B, H, 1, d) -> (B, H, 1, d)."""
        ...


class OwnBlock:
    def __init__(self, grid: Grid) -> None:
        self.grid, self.cache_length = grid, grid.size

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(2, self.grid).transpose(1, 2).flatten(0, 1) for x in (q, k, v))     # (B N, H, S, d)
        attended = attention(q, k, v, is_causal=True)                                              # (B N, H, S, d)
        return attended.unflatten(0, (-1, self.grid.blocks)).transpose(1, 2).flatten(2, 3)         # (B, H, T, d)

    def fill(self, cache: Tensor, kv: Tensor, length: int) -> None:
        start = length - length % self.grid.size
        cache[: length - start] = _to_cache(kv[..., start:length, :])

    def step(self, q: Tensor, kv: Tensor, cache: Tensor, cursor: Cursor) -> Tensor:
        k, v = _keys_and_values(cache.index_copy_(0, cursor.offset, kv))                           # (B, H, S, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=cursor.in_block)


class Column:
    def __init__(self, grid: Grid) -> None:
        self.grid, self.cache_length = grid, grid.blocks * grid.size

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(2, self.grid).movedim(3, 1).flatten(0, 1) for x in (q, k, v))       # (B S, H, N, d)
        attended = attention(q, k, v, is_causal=True)                                              # (B S, H, N, d)
        return attended.unflatten(0, (-1, self.grid.size)).movedim(1, 3).flatten(2, 3)             # (B, H, T, d)

    def fill(self, cache: Tensor, kv: Tensor, length: int) -> None:
        by_offset = _to_cache(kv).unflatten(0, self.grid).transpose(0, 1)                          # (S, N, B, 2, H, d)
        cache.copy_(by_offset.flatten(0, 1))  # later positions are masked in `step`

    def step(self, q: Tensor, kv: Tensor, cache: Tensor, cursor: Cursor) -> Tensor:
        columns = cache.index_copy_(0, cursor.row, kv).unflatten(0, (self.grid.size, -1))          # (S, N, B, 2, H, d)
        k, v = _keys_and_values(columns.index_select(0, cursor.offset).squeeze(0))                 # (B, H, N, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=cursor.in_column)


class PreviousBlock:
    def __init__(self, grid: Grid) -> None:
        self.grid, self.cache_length = grid, 2 * grid.size

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, size = len(q), self.grid.size
        shifted = (q[:, :, size:], k[:, :, :-size], v[:, :, :-size])                               # (B, H, T - S, d)
        q, k, v = (x.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1) for x in shifted)      # (B N-B, H, S, d)
        attended = attention(q, k, v)                                                              # (B N-B, H, S, d)
        attended = attended.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)                # (B, H, T - S, d)
        return F.pad(attended, (0, 0, size, 0))                                                    # (B, H, T, d)

    def fill(self, cache: Tensor, kv: Tensor, length: int) -> None:
        size = self.grid.size
        for block in range(max(0, length // size - 1), -(-length // size)):
            half = block % 2 * size
            cache[half : half + size] = _to_cache(kv[..., block * size : (block + 1) * size, :])

    def step(self, q: Tensor, kv: Tensor, cache: Tensor, cursor: Cursor) -> Tensor:
        """In block 0 the attended values are the zeros of the new cache, and so is the result."""
        halves = cache.index_copy_(0, cursor.turn, kv).unflatten(0, (2, -1))                       # (2, S, B, 2, H, d)
        k, v = _keys_and_values(halves.index_select(0, cursor.previous).squeeze(0))                # (B, H, S, d)
        return F.scaled_dot_product_attention(q, k, v)


PATTERNS = (OwnBlock, Column, PreviousBlock)  # layer l has pattern l mod 3


class Attention(nn.Module):
    """Multi-head self-attention with one pattern.

    Args:
        width: W.
        inner: H * d.
        heads: H.
        pattern: sparsity pattern.
    """

    def __init__(self, width: int, inner: int, heads: int, pattern: Pattern) -> None:
        super().__init__()
        self.heads, self.head_size, self.pattern = heads, inner // heads, pattern
        self.qkv = nn.Linear(width, 3 * inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, cache: Tensor | None = None, length: int = 0) -> Tensor:
        """(B, T, W) -> (B, T, W); a zeroed `cache` is filled with the first `length` positions."""
        qkv = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)     # (3, B, H, T, d)
        if cache is not None:
            self.pattern.fill(cache, qkv[1:], length)
        attended = self.pattern.attend(*qkv)                                           # (B, H, T, d)
        return self.out(attended.transpose(1, 2).flatten(2))                           # (B, T, W)

    def step(self, x: Tensor, cache: Tensor, cursor: Cursor) -> Tensor:
        """One position: (B, W) -> (B, W)."""
        qkv = self.qkv(x).view(len(x), 3, self.heads, -1)                              # (B, 3, H, d)
        kv = qkv.narrow(1, 1, 2).to(cache.dtype).unsqueeze(0)                          # (1, B, 2, H, d)
        q = qkv.select(1, 0).unsqueeze(2)                                              # (B, H, 1, d)
        attended = self.pattern.step(q, kv, cache, cursor)                             # (B, H, 1, d)
        return self.out(attended.flatten(1))                                           # (B, W)
