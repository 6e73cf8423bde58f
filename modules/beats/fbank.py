"""Front end of BEATs: Kaldi's log-mel filter bank, for whole batches and always in float32.

B sounds, n samples at 16 kHz, F = 1 + (n - 400) // 160 frames, M = 128 bands.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

SAMPLE_RATE = 16_000  # Hz
FRAME = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
FFT = 512  # samples: a frame padded with zeros
BANDS = 128
LOW, HIGH = 20.0, 8000.0  # Hz, lower edge of the first band and upper edge of the last
PRE_EMPHASIS = 0.97
FULL_SCALE = 2**15  # Kaldi counts in steps of 16 bits
FLOOR = 1.1920929e-07  # least energy of a band, float32's epsilon: silence is -15.942385
MEAN, DEVIATION = 15.41663, 6.55582  # statistics of AudioSet's log-mels, as published


def log_mel(waves: Tensor) -> Tensor:
    """Compute log-mels, (B, n) in [-1, 1] -> (B, F, M) ln energies from -15.94 to about 30, not normalised.

    Equal to `torchaudio.compliance.kaldi.fbank(2^15 wave, num_mel_bins=128)` without dither: no padding at the ends,
    the mean of each frame removed, pre-emphasis inside the frame, Povey's window (a Hann window to the power of 0.85).

    Raises:
        ValueError: the shape is not (B, n), or n is less than one frame of 400 samples.
    """
    if waves.ndim != 2 or waves.shape[1] < FRAME:
        raise ValueError(f"waves must be (B, n) with at least {FRAME} samples, got {tuple(waves.shape)}")
    with torch.autocast(waves.device.type, enabled=False):
        frames = (waves.float() * FULL_SCALE).unfold(1, FRAME, HOP)            # (B, F, 400)
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)            # the first sample is its own predecessor
        frames = (frames - PRE_EMPHASIS * before) * _window(waves.device)
        spectrum = torch.view_as_real(torch.fft.rfft(frames, FFT))             # (B, F, 257, 2)
        power = spectrum.square().sum(-1)                                      # (B, F, 257)
        return (power @ _bands(waves.device)).clamp(min=FLOOR).log()           # (B, F, M)


def fbank(waves: Tensor) -> Tensor:
    """Compute log-mels as BEATs was trained on them, (B, n) in [-1, 1] -> (B, F, M): (log_mel - mean) / (2 deviation).

    Raises:
        ValueError: as `log_mel`.
    """
    return (log_mel(waves) - MEAN) / (2 * DEVIATION)


@functools.cache
@torch.inference_mode(False)  # the cached tensor may be used in training later
def _window(device: torch.device) -> Tensor:
    """Povey's window (400,)."""
    return torch.hann_window(FRAME, periodic=False, device=device).pow(0.85)


@functools.cache
@torch.inference_mode(False)
def _bands(device: torch.device) -> Tensor:
    """Mel filters (257, M): triangles evenly spaced on 1127 ln(1 + f / 700), without the highest bin."""
    lowest, highest = (1127 * math.log(1 + hertz / 700) for hertz in (LOW, HIGH))
    width = (highest - lowest) / (BANDS + 1)
    left = lowest + width * torch.arange(BANDS)                                # (M,)
    bins = 1127 * (1 + torch.arange(FFT // 2)[:, None] * (SAMPLE_RATE / FFT) / 700).log()
    rising, falling = (bins - left) / width, (left + 2 * width - bins) / width  # (256, M)
    return F.pad(torch.minimum(rising, falling).clamp(min=0), (0, 0, 0, 1)).to(device)
