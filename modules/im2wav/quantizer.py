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

DrawRows = Callable[[Tensor, int], Tensor]  # (rows (R, D) of this process, count) -> (count, D) rows of all processes
Reduce = Callable[[Tensor], Tensor]  # a tensor -> its sum over all processes


def identity(tensor: Tensor) -> Tensor:
    return tensor


class CodebookStatistics(NamedTuple):
    """Scalars of a batch for the log."""

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
    """K codes of width D.

    The running sums are part of the state dict, unlike the official code, so that a resumed run continues exactly.

    Args:
        codes: K.
        width: D.
        decay: of the moving averages, for each batch.
        threshold: a code is replaced by a row of the batch when its running count is below this.
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
        """Quantise with the codes as they are, then update them if `draw_rows` is given.

        Args:
            x: (B, D, T).
            draw_rows: random rows of the batch of all processes, the same on each; the first batch draws the codes,
                and each batch K candidates for unused codes.
            reduce: sum over processes of the running sums' increments.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            rows = x.detach().transpose(1, 2).reshape(-1, x.shape[1])                  # (R, D)
            if draw_rows and not self.initialised:
                self.set_codes(draw_rows(rows, len(self.codes)), count=1.0)
            tokens, distances = self._nearest(rows)                                    # (R,), (R,)
            vectors = F.embedding(tokens, self.codes).view(x.shape[0], -1, x.shape[1]).transpose(1, 2)
            statistics = self._update(rows, tokens, distances, draw_rows, reduce)
            commitment = (x - vectors).square().mean()
            straight = x + (vectors - x).detach()                                      # (B, D, T)
        return Quantized(tokens.view(x.shape[0], -1), straight, commitment, statistics)

    def decode(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, D, T)."""
        return F.embedding(tokens, self.codes).transpose(1, 2)

    @torch.no_grad()
    def set_codes(self, codes: Tensor, count: float) -> None:
        """Replace all codes (K, D).

        Args:
            count: running count of each: 1 for a new codebook; when training goes on from codes without running sums,
                the rows of a batch divided by K.
        """
        self.codes.copy_(codes)
        self.sums.copy_(codes * count)
        self.counts.fill_(count)
        self.initialised.fill_(True)

    def _nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(R, D) -> index of the nearest code (R,), squared distance (R,)."""
        lengths, parts = self.codes.square().sum(dim=1), []
        for chunk in rows.split(CHUNK_ROWS):
            distances = chunk.square().sum(dim=1, keepdim=True) - 2 * chunk @ self.codes.T + lengths   # (chunk, K)
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


def draw_rows(
    rows: Tensor, count: int, generator: torch.Generator, rank: int = 0, world: int = 1, reduce: Reduce = identity
) -> Tensor:
    """Draw `count` rows (count, D) of the batch that the processes share, the same on every process.

    Args:
        rows: (R, D) of this process; the batch of all processes is theirs in the order of their ranks.
        generator: on the CPU, in the same state on every process.
        reduce: sum over the processes.

    Rows of a batch smaller than `count` are repeated, and moved apart by normal noise of variance 1e-4 / D.
    """
    size, width = rows.shape
    order = torch.randperm(size * world, generator=generator)
    picked = order.repeat(-(-count // len(order)))[:count].to(rows.device)             # (count,)
    own = (picked // size == rank)[:, None]                                            # (count, 1)
    drawn = reduce(torch.where(own, rows[picked % size], 0.0))                         # (count, D)
    if count > len(order):
        drawn = drawn + 0.01 / math.sqrt(width) * torch.randn(count, width, generator=generator).to(rows)
    return drawn
