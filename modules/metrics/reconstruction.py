"""Distances between a reconstructed sound and the original, for autoencoders, codecs and vocoders.

B sounds, N samples, M mel bands, T frames.
"""

import torch
from torch import Tensor
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from sonolume.modules.mel import stft_magnitudes

DB = 20 / torch.log(torch.tensor(10.0)).item()  # natural logarithm of an amplitude -> decibels
RESOLUTIONS = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))  # FFT, hop, window (Yamamoto et al. 2020)


def mel_l1(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Mean absolute difference (B,) of ln mels (B, M, T), in nats."""
    return (real - rebuilt).abs().mean(dim=(1, 2))


def log_spectral_distance(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Distance (B,) in dB of ln amplitude spectra (B, M, T): root mean square over bands, mean over time."""
    return DB * (real - rebuilt).square().mean(dim=1).sqrt().mean(dim=1)


def stft_distance(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Multi-resolution STFT distance (B,) of waves (B, N) (Yamamoto et al. 2020).

    The mean over resolutions of spectral convergence |S - S'|_F / |S|_F and mean |ln S - ln S'|.
    """
    found = []
    for resolution in RESOLUTIONS:
        # the floor bounds the logarithm in silence
        a, b = (stft_magnitudes(wave, *resolution).clamp_min(1e-5) for wave in (real, rebuilt))
        convergence = (a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)
        found.append(convergence + (a.log() - b.log()).abs().mean(dim=(1, 2)))
    return torch.stack(found).mean(dim=0)


def si_sdr(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (B,) in dB of waves (B, N) (Le Roux et al. 2019).

    NaN if one of the two is all zeros: the ratio is undefined and must not count as 0 dB.
    """
    ratio = scale_invariant_signal_distortion_ratio(rebuilt.double(), real.double())
    return ratio.where(real.any(dim=1) & rebuilt.any(dim=1), torch.nan)
