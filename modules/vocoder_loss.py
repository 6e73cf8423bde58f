"""Losses of a vocoder: LSGAN, feature matching and mel L1 (HiFi-GAN, Kong et al. 2020, eq. 1-7), multi-resolution STFT.

real, fake: waves (B, N). logits, features: lists of tensors, one for each discriminator (and layer).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.mel import MelSpectrogram

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop, window (Yamamoto et al. 2020)


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """LSGAN: sum over discriminators of mean (D(x) - 1)^2 + mean D(G(s))^2."""
    return torch.stack([(1 - r).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True)]).sum()


def generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """LSGAN: sum over discriminators of mean (D(G(s)) - 1)^2."""
    return torch.stack([(1 - f).square().mean() for f in fake]).sum()


def feature_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Sum over all layers of all discriminators of the mean absolute difference."""
    return torch.stack([F.l1_loss(f, r) for r, f in zip(real, fake, strict=True)]).sum()


def mel_loss(real: Tensor, fake: Tensor, mel: MelSpectrogram) -> Tensor:
    """Mean absolute difference of ln mels."""
    return F.l1_loss(mel(fake), mel(real))


def stft_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Spectral convergence plus L1 of log magnitudes, the mean over `RESOLUTIONS` (Parallel WaveGAN, eq. 4-6)."""
    losses = []
    for n_fft, hop, size in RESOLUTIONS:
        window = torch.hann_window(size, device=real.device)
        x, y = (_magnitude(wave, n_fft, hop, size, window) for wave in (real, fake))
        convergence = (x - y).norm() / x.norm().clamp(min=1e-5)
        losses.append(convergence + F.l1_loss(y.log(), x.log()))
    return torch.stack(losses).mean()


def _magnitude(wave: Tensor, n_fft: int, hop: int, size: int, window: Tensor) -> Tensor:
    """(B, K, T), at least 10^-3.5."""
    spectrum = torch.stft(wave, n_fft, hop, size, window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-7).sqrt()
