"""Reconstruction losses of the VQ-VAE, normalised by statistics of the data set (Jukebox, arXiv 2005.00341).

target, output: waves (B, n).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sonolume.modules.im2wav.vqvae import Reconstruction
from sonolume.modules.mel import stft_magnitudes

RESOLUTIONS = ((2048, 240, 1200), (1024, 120, 600), (512, 50, 240))  # n_fft, hop, window
SCALE_RESOLUTION = (2048, 256, 1536)
LARGEST = 2048  # samples of each clip in the mean of the largest errors
LINF_WEIGHT, COMMITMENT_WEIGHT = 0.02, 0.02


class LossScales(NamedTuple):
    """Normalisers of the losses, so that their size does not depend on the loudness of the data set."""

    l1: float  # mean |x|
    l2: float  # variance
    spectral: float  # mean over the clips of the Frobenius norm of the magnitude spectrogram

    @classmethod
    def estimate(cls, clips: Iterable[Tensor]) -> "LossScales":
        """Estimate the scales from clips (channels, n); the spectrum is taken of the mean of the channels.

        Raises:
            ValueError: no clips, or silent ones.
        """
        count, total, absolute, squares, norms = 0, 0.0, 0.0, 0.0, []
        for clip in clips:
            x = clip.double()
            count, total = count + x.numel(), total + float(x.sum())
            absolute, squares = absolute + float(x.abs().sum()), squares + float(x.square().sum())
            norms.append(float(_norm(stft_magnitudes(x.mean(dim=0)[None], *SCALE_RESOLUTION, pad_mode="constant"))))
        if not squares:
            raise ValueError("the scales of the losses cannot be estimated from no clips or silent clips")
        return cls(absolute / count, squares / count - (total / count) ** 2, sum(norms) / len(norms))


class ReconstructionLoss(NamedTuple):
    """Normalised losses of one level."""

    l1: Tensor  # mean absolute error, for the log only
    l2: Tensor  # mean squared error
    linf: Tensor  # mean of the largest squared errors of each clip
    spectral: Tensor  # distance of magnitude spectrograms, mean over `RESOLUTIONS`

    @property
    def total(self) -> Tensor:
        return self.l2 + LINF_WEIGHT * self.linf + self.spectral


def reconstruction_loss(target: Tensor, output: Tensor, scales: LossScales) -> ReconstructionLoss:
    target, output = target.float(), output.float()
    error = target - output                                                            # (B, n)
    largest = error.square().topk(min(LARGEST, error.shape[1]), dim=1).values          # (B, 2048)
    spectral = torch.stack([spectral_distance(target, output, resolution) for resolution in RESOLUTIONS]).mean()
    return ReconstructionLoss(
        l1=error.abs().mean() / scales.l1,
        l2=error.square().mean() / scales.l2,
        linf=largest.mean() / scales.l2,
        spectral=spectral / scales.spectral,
    )


def vqvae_loss(losses: Sequence[ReconstructionLoss], levels: Sequence[Reconstruction]) -> Tensor:
    """Training loss: reconstruction and weighted commitment losses, summed over the levels."""
    commitment = torch.stack([level.quantized.commitment for level in levels]).sum()
    return torch.stack([loss.total for loss in losses]).sum() + COMMITMENT_WEIGHT * commitment


def spectral_distance(target: Tensor, output: Tensor, resolution: tuple[int, int, int]) -> Tensor:
    """(B,) Frobenius norm of the difference of magnitude spectrograms."""
    return _norm(stft_magnitudes(target, *resolution) - stft_magnitudes(output, *resolution))


def spectral_convergence(target: Tensor, output: Tensor) -> Tensor:
    """(B,) spectral distance divided by the norm of the target's spectrogram, clamped to at least 2e-3."""
    norm = _norm(stft_magnitudes(target, *SCALE_RESOLUTION))
    return spectral_distance(target, output, SCALE_RESOLUTION) / norm.clamp(min=2e-3)


def perplexity(counts: Tensor) -> float:
    """Perplexity of the use of codes, from their counts (K,): 1 for one code or none, K if all are used equally."""
    shares = counts.cpu().double() / max(1.0, float(counts.sum()))
    return math.exp(float(-torch.xlogy(shares, shares).sum()))


def _norm(spectrum: Tensor) -> Tensor:
    return torch.linalg.vector_norm(spectrum, dim=(1, 2))
