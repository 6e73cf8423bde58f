"""Conditioning networks of the two priors: CLIP vectors of frames, times, and tokens of the coarser level.

B clips, F frames, V width of the image vectors, T positions, W width of the prior.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonolume.modules.im2wav.convolutions import dilations, upsample
from sonolume.modules.im2wav.transformer import Condition


class ImageProjection(nn.Module):
    """MLP from image vectors to the width of the prior."""

    def __init__(self, image_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(image_width, image_width)
        self.fc2 = nn.Linear(image_width, width)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, ..., V) -> (B, ..., W); `seeds` (B,) of each clip's dropout; default: the global generator."""
        hidden = F.relu(self.fc1(x.to(self.fc1.weight.dtype)))
        if seeds is None or not self.training or not self.dropout:
            return self.fc2(F.dropout(hidden, self.dropout, self.training))
        return self.fc2(hidden * _dropout_mask(hidden, self.dropout, seeds))


def _dropout_mask(like: Tensor, dropout: float, seeds: Tensor) -> Tensor:
    """Scaled dropout mask, drawn for each clip on the CPU: independent of the device and of the batch."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    drawn = torch.stack([torch.rand(like.shape[1:], generator=generator) for generator in generators])
    return ((drawn >= dropout) / (1 - dropout)).to(like)


class TimeTable(nn.Module):
    """Learned embedding of a time in [low, high), divided into equal bins."""

    def __init__(self, bins: int, low: float, high: float, width: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.table = nn.Embedding(bins, width)
        nn.init.normal_(self.table.weight, std=0.01)

    def forward(self, times: Tensor) -> Tensor:
        """(...) -> (..., W).

        Raises:
            ValueError: a time out of range.
        """
        share = (times - self.low) / (self.high - self.low)
        if not ((share >= 0) & (share < 1)).all():
            raise ValueError(f"times from {float(times.min()):g} to {float(times.max()):g} are not in "
                             f"[{self.low:g}, {self.high:g})")  # fmt: skip
        return self.table((share * self.table.num_embeddings).long())


class VideoConditioner(nn.Module):
    """Condition of the Low prior: frames aligned with the positions, and times of the window in the recording.

    Args:
        image_width: V.
        width: W.
        positions: T.
        image_dropout: dropout in the projections of image vectors.
        time_bins: size of each time table.
        min_seconds, max_seconds: range of the length of a recording.
        sample_rate: Hz.
        has_null: has learned vectors for "no images", for classifier-free guidance.
    """

    def __init__(
        self, image_width: int, width: int, positions: int, image_dropout: float, time_bins: int,
        min_seconds: float, max_seconds: float, sample_rate: int, has_null: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.positions, self.sample_rate = positions, sample_rate
        self.start = ImageProjection(image_width, width, image_dropout)
        self.frames = ImageProjection(image_width, width, image_dropout)
        self.total = TimeTable(time_bins, min_seconds, max_seconds, width)
        self.absolute = TimeTable(time_bins, 0.0, max_seconds, width)
        self.relative = TimeTable(time_bins, 0.0, 1.0, width)
        self.null_start = nn.Parameter(torch.zeros(width)) if has_null else None
        self.null_frame = nn.Parameter(torch.zeros(width)) if has_null else None

    def forward(
        self, frames: Tensor, times: Tensor, keep: Tensor | None = None, seeds: Tensor | None = None
    ) -> Condition:
        """Compute the condition of windows.

        Args:
            frames: (B, F, V), evenly spaced over the window, first and last position included; F = 1 for a still image.
            times: (B, 3) in samples: length of the recording, offset and length of the window.
            keep: (B,) bool, False for null vectors in place of the images; default: all True.
            seeds: (B,) int64, seed of the dropout of each clip.

        Raises:
            ValueError: a time out of range, or clips without images for a network without null vectors.
        """
        start = self.start(frames.mean(dim=1), seeds)                                  # (B, W)
        start = _or_null(start, self.null_start, keep)
        projected = self.frames(frames, None if seeds is None else seeds + 1)          # (B, F, W)
        projected = _or_null(projected, self.null_frame, keep)
        index = frame_index(self.positions, frames.shape[1], frames.device)            # (T,)
        return Condition(start, self._times(times.float()) + projected[:, index])      # (B, T, W)

    def _times(self, times: Tensor) -> Tensor:
        """(B, 3) -> (B, T, W)."""
        total, offset, length = times[:, :, None].unbind(dim=1)                        # (B, 1)
        steps = torch.arange(self.positions, device=times.device) / self.positions
        place = offset + length * steps                                                # (B, T)
        tables = self.total(total / self.sample_rate) + self.absolute(place / self.sample_rate)
        return tables + self.relative(place / total)


class TokenConditioner(nn.Module):
    """Condition of the Up prior: one image vector, and the upsampled tokens of the coarser level.

    Args:
        image_width: V.
        width: W.
        image_dropout: dropout in the projection of image vectors.
        codes: size of the codebook of the coarser level.
        rates: upsampling factors; their product is the number of fine tokens for a coarse one.
        conv_width, conv_depth: channels and residual blocks before each upsampling.
        dilation_growth, dilation_cycle: see `dilations`.
        has_null: has a learned vector for "no image", for classifier-free guidance.
    """

    def __init__(
        self, image_width: int, width: int, image_dropout: float, codes: int, rates: Sequence[int],
        conv_width: int, conv_depth: int, dilation_growth: int, dilation_cycle: int | None, has_null: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.start = ImageProjection(image_width, width, image_dropout)
        self.tokens = nn.Embedding(codes, width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        layers: list[nn.Module] = [nn.Conv1d(width, conv_width, 3, padding=1)]
        block_dilations = dilations(conv_depth, dilation_growth, dilation_cycle)
        for stage, rate in enumerate(rates):
            channels = conv_width if stage < len(rates) - 1 else width
            layers.append(upsample(conv_width, channels, rate, block_dilations))
        self.upsampler = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.null_start = nn.Parameter(torch.zeros(width)) if has_null else None

    def forward(
        self, images: Tensor, low_tokens: Tensor, keep: Tensor | None = None, seeds: Tensor | None = None
    ) -> Condition:
        """Compute the condition of windows.

        Args:
            images: (B, V).
            low_tokens: (B, T / 4), all coarse tokens of the window: the convolutions are not causal.
            keep: (B,) bool, False for the null vector in place of the image; default: all True.
            seeds: (B,) int64, seed of the dropout of each clip.

        Raises:
            ValueError: clips without images for a network without a null vector.
        """
        start = _or_null(self.start(images, seeds), self.null_start, keep)             # (B, W)
        x = self.upsampler(self.tokens(low_tokens).transpose(1, 2))                    # (B, W, T)
        return Condition(start, self.norm(x.transpose(1, 2)))                          # (B, T, W)


def _or_null(vectors: Tensor, null: Tensor | None, keep: Tensor | None) -> Tensor:
    """(B, ..., W) with `null` (W,) where `keep` (B,) is False."""
    if keep is None:
        return vectors
    if null is None:
        raise ValueError("this prior has no null vectors for guidance: it was built with has_null=False")
    return torch.where(keep.view(-1, *[1] * (vectors.ndim - 1)), vectors, null.to(vectors))


def frame_index(positions: int, frames: int, device: torch.device | None = None) -> Tensor:
    """(T,) index of the frame nearest to each position: round(t * (F - 1) / (T - 1)).

    In integers, so that every device agrees; T is even, so there are no ties.
    """
    t = torch.arange(positions, device=device)
    return (2 * t * (frames - 1) + positions - 1) // (2 * max(1, positions - 1))
