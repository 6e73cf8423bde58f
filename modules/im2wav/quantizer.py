"""Vector quantisation with a codebook that follows the encoder by exponential moving averages.

VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1) with restarts of unused codes (Jukebox, Dhariwal et
al. 2020, arXiv 2005.00341, section 3). B clips, T positions, D width of a code, K codes, R = B * T rows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK_ROWS = 16384  # rows compared with all codes at a time: 128 MiB of distances with 2048 codes

DrawRows = Callable[[Tensor, int], Tensor]  # (rows (R, D) of this process, count) -> random rows of all processes
Reduce = Callable[[Tensor], Tensor]  # a tensor of this process -> sum over all processes


def identity(tensor: Tensor) -> Tensor:
    return tensor


class CodebookStatistics(NamedTuple):
    """Scalars for the log."""

    fit: Tensor  # mean squared distance of a row to its code
    prenorm: Tensor  # standard deviation of the encoder's output
    entropy: Tensor  # of the use of the codes in the batch, nats
    used: Tensor  # number of codes used in the batch
    alive: Tensor  # number of codes whose running count reaches the restart threshold
    shift: Tensor  # root mean square of the change of the codebook


class Quantized(NamedTuple):
    tokens: Tensor  # (B, T) int64
    vectors: Tensor  # (B, D, T) float32, codes with the gradient of the encoder's output (straight-through)
    commitment: Tensor  # mean squared distance to the code, with gradient to the encoder's output
    statistics: CodebookStatistics


class Codebook(nn.Module):
    """Codebook of K vectors of width D.

    The state dict includes the running sums (the official one does not), so a resumed run continues exactly.

    Args:
        codes: K.
        width: D.
        decay: factor on the running sums for each batch.
        threshold: running count below which a code is replaced by a random row of the batch.
    """

    def __init__(self, codes: int, width: int, decay: float = 0.99, threshold: float = 1.0) -> None:
        super().__init__()
        self.decay, self.threshold = decay, threshold
        self.codes: Tensor
        self.sums: Tensor
        self.counts: Tensor
        self.initialised: Tensor
        self.register_buffer("codes", torch.zeros(codes, width))
        self.register_buffer("sums", torch.zeros(codes, width))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor, draw_rows: DrawRows | None = None, reduce: Reduce = identity) -> Quantized:
        """Quantise with the current codes, then update the codes if `draw_rows` is given.

        Args:
            x: (B, D, T).
            draw_rows: draws random rows from the batch of all processes, the same rows on each process: K initial
                codes in the first batch, and K replacements for unused codes in every batch.
            reduce: sum over processes, for the sums and counts of the batch.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            rows = _rows(x.detach())                                                   # (R, D)
            if draw_rows and not self.initialised:
                self.set_codes(draw_rows(rows, len(self.codes)), count=1.0)
            tokens, distances = self._nearest(rows)                                    # (R,), (R,)
            vectors = F.embedding(tokens, self.codes).view(x.shape[0], -1, x.shape[1]).transpose(1, 2)
            statistics = self._update(rows, tokens, distances, draw_rows, reduce)
            commitment = (x - vectors).square().mean()
            straight = x + (vectors - x).detach()                                      # (B, D, T)
        return Quantized(tokens.view(x.shape[0], -1), straight, commitment, statistics)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, D, T) -> tokens (B, T)."""
        return self._nearest(_rows(x.float()))[0].view(len(x), -1)

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, D, T)."""
        return F.embedding(tokens, self.codes).transpose(1, 2)

    @torch.no_grad()
    def set_codes(self, codes: Tensor, count: float) -> None:
        """Replace all codes (K, D).

        Args:
            count: running count of each code: 1 for a new codebook; rows of a batch divided by K to continue training
                from codes without running sums.
        """
        self.codes.copy_(codes)
        self.sums.copy_(codes * count)
        self.counts.fill_(count)
        self.initialised.fill_(True)

    def _nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) -> index of the nearest code (R,), squared distance (R,)."""
        codes, parts = self.codes.float(), []
        for chunk in rows.split(CHUNK_ROWS):
            lengths = chunk.square().sum(dim=1, keepdim=True)                          # (chunk, 1)
            distances = lengths - 2 * chunk @ codes.T + codes.square().sum(dim=1)      # (chunk, K)
            parts.append(distances.min(dim=1))
        return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])

    @torch.no_grad()
    def _update(
        self, rows: Tensor, tokens: Tensor, distances: Tensor, draw_rows: DrawRows | None, reduce: Reduce
    ) -> CodebookStatistics:
        counts = reduce(torch.bincount(tokens, minlength=len(self.codes)).to(rows))                   # (K,)
        before = self.codes.clone()
        if draw_rows:
            sums = reduce(torch.zeros_like(self.sums).index_add_(0, tokens, rows))                     # (K, D)
            self.sums.lerp_(sums, 1 - self.decay)
            self.counts.lerp_(counts, 1 - self.decay)
            alive = (self.counts >= self.threshold)[:, None]                                           # (K, 1)
            self.codes.copy_(torch.where(alive, self.sums / self.counts[:, None], draw_rows(rows, len(self.codes))))
        share = counts / counts.sum()
        return CodebookStatistics(
            fit=distances.mean(),
            prenorm=(rows - rows.mean()).norm() / math.sqrt(rows.numel()),
            entropy=-torch.xlogy(share, share).sum(),
            used=(counts >= 1).sum(),
            alive=(self.counts >= self.threshold).sum(),
            shift=(self.codes - before).norm() / math.sqrt(before.numel()),
        )


def _rows(x: Tensor) -> Tensor:
    """(B, D, T) -> (R, D)."""
    return x.transpose(1, 2).flatten(0, 1)


def draw_rows(
    rows: Tensor, count: int, generator: torch.Generator, rank: int = 0, world: int = 1, reduce: Reduce = identity
) -> Tensor:
    """Draw rows (count, D) without replacement from the batch of all processes, the same rows on every process.

    If the batch has fewer than `count` rows, all are repeated, with normal noise of deviation 0.01 / sqrt(D).

    Args:
        rows: (R, D) of this process; the global batch is the concatenation in the order of the ranks.
        generator: on the CPU, in the same state on every process.
        rank: index of this process.
        world: number of processes.
        reduce: sum over the processes.
    """
    size, width = rows.shape
    order = torch.randperm(size * world, generator=generator)
    picked = order.repeat(-(-count // len(order)))[:count].to(rows.device)             # (count,)
    own = (picked // size == rank)[:, None]                                            # (count, 1)
    drawn = reduce(torch.where(own, rows[picked % size], 0.0))                         # (count, D)
    if count > len(order):
        drawn = drawn + 0.01 / math.sqrt(width) * torch.randn(count, width, generator=generator).to(rows)
    return drawn
