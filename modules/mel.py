"""Log-mel spectrograms as the HiFi-GAN family computes them (the setting of Amphion's text-to-audio vocoder).

Shapes: B batch, N samples, T = N // hop_size frames, K = n_fft // 2 + 1 frequency bins, M mel bands.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEL_FLOOR = 1e-5  # mel magnitudes are clamped here, so silence is ln(1e-5) = -11.5129


@dataclass(frozen=True)
class MelSettings:
    """Settings of a mel spectrogram; the defaults are those of the published vocoder."""

    sample_rate: int = 16000  # Hz
    n_fft: int = 1024  # length of the Fourier transform, samples
    win_size: int = 1024  # length of the periodic Hann window, samples
    hop_size: int = 256  # samples from frame to frame
    n_mel: int = 80  # Slaney mel bands, area-normalised
    fmin: float = 0.0  # lower edge of the lowest band, Hz
    fmax: float = 8000.0  # upper edge of the highest band, Hz

    def __post_init__(self) -> None:
        if not 0 < self.hop_size <= self.win_size <= self.n_fft:
            sizes = f"hop_size {self.hop_size} <= win_size {self.win_size} <= n_fft {self.n_fft}"
            raise ValueError(f"{sizes} does not hold")
        if (self.n_fft - self.hop_size) % 2:
            raise ValueError(f"n_fft {self.n_fft} - hop_size {self.hop_size} is odd: frames cannot be centred")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(f"0 <= fmin {self.fmin} < fmax {self.fmax} <= {self.sample_rate / 2} Hz does not hold")

    @classmethod
    def of(cls, section: object) -> "MelSettings":
        """Copy the settings from any object with these fields, such as a config section."""
        return cls(**{field.name: getattr(section, field.name) for field in fields(cls)})

    @classmethod
    def full_band(cls, sample_rate: int) -> "MelSettings":
        """Settings with bands up to half of any sample rate."""
        return cls(sample_rate=sample_rate, fmax=sample_rate / 2)

    @property
    def axes(self) -> dict[str, Any]:
        """Arguments of a drawn spectrogram (`utils/image.py`)."""
        return {name: getattr(self, name) for name in ("sample_rate", "hop_size", "fmin", "fmax")}

    @property
    def padding(self) -> int:
        """Samples added at each side, so that N samples give N // hop_size frames."""
        return (self.n_fft - self.hop_size) // 2


class MelSpectrogram(nn.Module):
    """Wave to natural-log mel magnitudes: ln(max(basis @ sqrt(|STFT|^2 + 1e-9), 1e-5)).

    The buffers are not part of the state dict.
    """

    window: Tensor
    basis: Tensor

    def __init__(self, settings: MelSettings | None = None) -> None:
        from transformers.audio_utils import mel_filter_bank  # numba-free, and slow to import

        super().__init__()
        self.settings = mel = settings or MelSettings()
        left = (mel.n_fft - mel.win_size) // 2  # zeros around the window
        window = F.pad(torch.hann_window(mel.win_size), (left, mel.n_fft - mel.win_size - left))
        filters = mel_filter_bank(
            mel.n_fft // 2 + 1, mel.n_mel, mel.fmin, mel.fmax, mel.sample_rate, norm="slaney", mel_scale="slaney"
        )                                                                                            # (K, M)
        self.register_buffer("window", window, persistent=False)                                     # (n_fft,)
        self.register_buffer("basis", torch.from_numpy(filters.T.copy()).float(), persistent=False)  # (M, K)

    def stft(self, wave: Tensor) -> Tensor:
        """(B, N) -> complex (B, K, T): reflected at both ends, frames not centred."""
        padding, n_fft = self.settings.padding, self.settings.n_fft
        if wave.shape[-1] <= padding:
            raise ValueError(f"a wave of {wave.shape[-1]} samples is too short: at least {padding + 1} are needed")
        wave = F.pad(wave, (padding, padding), mode="reflect")
        return torch.stft(wave, n_fft, self.settings.hop_size, window=self.window, center=False, return_complex=True)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) in [-1, 1] -> (B, M, T), band 0 lowest, values from -11.51 to about 2.

        Raises:
            ValueError: N is not above (n_fft - hop_size) / 2.
        """
        spectrum = self.stft(wave)                                                   # (B, K, T) complex
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()  # (B, K, T)
        return (self.basis @ magnitude).clamp(min=MEL_FLOOR).log()                   # (B, M, T)


def stft_magnitudes(wave: Tensor, n_fft: int, hop: int, window: int, pad_mode: str = "reflect") -> Tensor:
    """Magnitudes (B, n_fft / 2 + 1, frames) of waves (B, n), with a Hann window of `window` samples."""
    taper = torch.hann_window(window, dtype=wave.dtype, device=wave.device)
    return torch.stft(wave, n_fft, hop, window, taper, pad_mode=pad_mode, return_complex=True).abs()
