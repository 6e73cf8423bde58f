"""Losses and discriminators of a vocoder (HiFi-GAN, Kong et al. 2020, eq. 1-7), and the multi-resolution STFT loss.

real, fake: waves (B, N). logits, features: lists of tensors, one for each discriminator (and layer). p period,
C channels. Parameter names of the discriminators are the official ones.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from sonolume.modules.mel import MelSpectrogram

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop, window (Yamamoto et al. 2020)
SLOPE = 0.1  # negative slope of every leaky ReLU
PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
SCALE_LAYERS = (  # channels, kernel, stride, groups
    (128, 15, 1, 1), (128, 41, 2, 4), (256, 41, 2, 16), (512, 41, 4, 16), (1024, 41, 4, 16), (1024, 41, 1, 16),
    (1024, 5, 1, 1),
)  # fmt: skip
SPECTRAL_NAMES = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}  # torch's older names -> newer
WEIGHT_NORM_NAMES = {"weight_g": "original0", "weight_v": "original1"}


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


class PeriodDiscriminator(nn.Module):
    """2-D convolutions over every p-th sample: (B, N) -> logits (B, about N / 81) and 6 feature maps (B, C, steps, p).

    A length that p does not divide is padded by reflection.
    """

    def __init__(self, period: int, width: float = 1.0) -> None:
        super().__init__()
        self.period = period
        sizes, self.convs = [1, *(_scaled(channels, width) for channels in PERIOD_CHANNELS)], nn.ModuleList()
        for before, channels, stride in zip(sizes, sizes[1:], (3, 3, 3, 3, 1), strict=False):
            self.convs.append(weight_norm(nn.Conv2d(before, channels, (5, 1), (stride, 1), (2, 0))))
        self.conv_post = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        missing = -wave.shape[-1] % self.period
        x = F.pad(wave[:, None], (0, missing), "reflect") if missing else wave[:, None]
        return _layers(self.convs, self.conv_post, x.unflatten(-1, (-1, self.period)))  # (B, 1, N / p, p)


class ScaleDiscriminator(nn.Module):
    """1-D convolutions over the wave: (B, N) -> logits (B, about N / 64) and 8 feature maps (B, C, steps)."""

    def __init__(self, width: float = 1.0, spectral: bool = False) -> None:
        super().__init__()
        norm, before, self.convs = spectral_norm if spectral else weight_norm, 1, nn.ModuleList()
        for full, kernel, stride, groups in SCALE_LAYERS:
            channels = _scaled(full, width)
            shared = math.gcd(groups, before, channels)
            self.convs.append(norm(nn.Conv1d(before, channels, kernel, stride, kernel // 2, groups=shared)))
            before = channels
        self.conv_post = norm(nn.Conv1d(before, 1, 3, 1, 1))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        return _layers(self.convs, self.conv_post, wave[:, None])


class WaveformDiscriminator(nn.Module):
    """Multi-period (mpd) and multi-scale (msd) discriminators: (B, N) -> logits and feature maps of all of them.

    The first scale takes the wave itself, with spectral norm; each other one the wave averaged to half the rate before.
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), scales: int = 3, width: float = 1.0) -> None:
        super().__init__()
        by_period = [PeriodDiscriminator(period, width) for period in periods]
        by_scale = [ScaleDiscriminator(width, scale == 0) for scale in range(scales)]
        self.mpd = nn.ModuleDict({"discriminators": nn.ModuleList(by_period)})  # official names
        self.msd = nn.ModuleDict({"discriminators": nn.ModuleList(by_scale)})

    def forward(self, wave: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        found = [discriminator(wave) for discriminator in self.mpd["discriminators"].children()]
        for scale, discriminator in enumerate(self.msd["discriminators"].children()):
            wave = F.avg_pool1d(wave, 4, 2, padding=2) if scale else wave
            found.append(discriminator(wave))
        return [logits for logits, _ in found], [feature for _, features in found for feature in features]


def official_weights(official: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Convert "mpd" and "msd" of an official `do_*` checkpoint to a state dict of `WaveformDiscriminator` (width 1)."""
    named = {f"{part}.{name}": tensor for part in ("mpd", "msd") for name, tensor in official[part].items()}
    weights = {}
    for name, tensor in named.items():
        stem, _, leaf = name.rpartition(".")
        names = SPECTRAL_NAMES if f"{stem}.weight_orig" in named else WEIGHT_NORM_NAMES
        weights[f"{stem}.parametrizations.weight.{names[leaf]}" if leaf in names else name] = tensor
    return weights


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _layers(convs: nn.ModuleList, last: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        features.append(x)
    x = last(x)
    return x.flatten(1), [*features, x]
