"""Waves from log-mel spectrograms without a trained vocoder: non-negative least squares, then fast Griffin-Lim.

Perraudin, Balazs, Sondergaard, "A fast Griffin-Lim algorithm", WASPAA 2013.
Shapes: B batch, T frames, K = n_fft // 2 + 1 frequency bins, M mel bands.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram

BATCH_FRAMES = 40_000  # frames of all sounds in one batch; one sound is never split
EPSILON = 1e-10


def mel_to_wave(
    log_mel: Tensor, settings: MelSettings | None = None, num_iters: int = 32, momentum: float = 0.99, seed: int = 0,
    start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """ln mel (B, M, T) -> wave (B, T * hop_size), float32, aligned so that its `MelSpectrogram` has the same T frames.

    Deterministic: every item starts from the same random phases, drawn on the CPU from `seed`, so a result does not
    depend on the rest of the batch.

    Args:
        start: waves (B, T * hop_size) that give the initial phases instead, such as a vocoder's.

    Raises:
        ValueError: other bands than in `settings`, T too short to be reflected, or `start` of another length.
    """
    mel = MelSpectrogram(settings).to(log_mel.device)
    if log_mel.ndim != 3 or log_mel.shape[1] != mel.settings.n_mel:
        raise ValueError(f"log_mel is {tuple(log_mel.shape)}, expected (batch, {mel.settings.n_mel}, frames)")
    length = log_mel.shape[-1] * mel.settings.hop_size
    if length <= mel.settings.padding:
        raise ValueError(f"{log_mel.shape[-1]} frames are too few for a padding of {mel.settings.padding} samples")
    if start is not None and start.shape != (len(log_mel), length):
        raise ValueError(f"start is {tuple(start.shape)}, expected {(len(log_mel), length)}")
    batch_size, waves = max(1, BATCH_FRAMES // log_mel.shape[-1]), []
    with torch.no_grad():
        for first in range(0, len(log_mel), batch_size):
            some = slice(first, first + batch_size)
            magnitude = mel_to_linear(log_mel[some].float(), mel.basis)
            phase = random_phases(magnitude, seed) if start is None else unit_phases(mel.stft(start[some].float()))
            waves.append(fast_griffin_lim(magnitude, mel, num_iters, momentum, phase))
    return torch.cat(waves)


def mel_to_linear(log_mel: Tensor, basis: Tensor, num_updates: int = 40) -> Tensor:
    """ln mel (B, M, T) -> magnitudes >= 0 (B, K, T) whose mel bands are nearest in the least-squares sense.

    Starts at the clamped pseudo-inverse; multiplicative updates (Lee and Seung 2001) keep it non-negative.
    """
    target = (log_mel.exp() - MEL_FLOOR).clamp(min=0.0)  # (B, M, T); the floor stands for silence
    magnitude = (torch.linalg.pinv(basis) @ target).clamp(min=0.0)
    magnitude = magnitude + 1e-3 * (basis.T @ target)  # zeros would stay zeros
    numerator = basis.T @ target                        # (B, K, T)
    for _ in range(num_updates):
        denominator = basis.T @ (basis @ magnitude)     # a third of the cost of (basis.T @ basis) @ magnitude
        magnitude = magnitude * numerator / (denominator + EPSILON)
    return magnitude


def random_phases(magnitude: Tensor, seed: int) -> Tensor:
    """(K, T) complex of length 1, equal for every item of a batch."""
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand(magnitude.shape[1:], generator=generator).to(magnitude.device)
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)


def unit_phases(spectrum: Tensor) -> Tensor:
    """Scale complex numbers to length 1."""
    return spectrum / (spectrum.abs() + EPSILON)


def fast_griffin_lim(magnitude: Tensor, mel: MelSpectrogram, num_iters: int, momentum: float, phase: Tensor) -> Tensor:
    """Magnitudes (B, K, T) and initial phases, (K, T) or (B, K, T) -> wave (B, T * hop_size) consistent with them."""
    squares = mel.window.square()[None, :, None].expand(1, -1, magnitude.shape[-1])
    weight = overlap_add(squares, mel.settings.hop_size).clamp(min=1e-8)         # of every sample, (1, length)
    previous = torch.zeros((), dtype=phase.dtype, device=phase.device)
    for _ in range(num_iters):
        consistent = mel.stft(inverse_stft(magnitude * phase, mel, weight))      # (B, K, T), c_n of the paper
        phase = unit_phases(consistent + momentum * (consistent - previous))     # of t_n of the paper
        previous = consistent
    return inverse_stft(magnitude * phase, mel, weight)


def inverse_stft(spectrum: Tensor, mel: MelSpectrogram, weight: Tensor) -> Tensor:
    """(B, K, T) and the windows' weight -> (B, T * hop_size), the least-squares inverse of `mel.stft`, cut to size.

    torch.istft refuses frames that are not centred: the window is zero at the outermost sample.
    """
    hop, padding = mel.settings.hop_size, mel.settings.padding
    pieces = torch.fft.irfft(spectrum, n=mel.settings.n_fft, dim=1) * mel.window[:, None]  # (B, n_fft, T)
    wave = overlap_add(pieces, hop) / weight                                               # (B, length)
    return wave[:, padding : padding + spectrum.shape[-1] * hop]


def overlap_add(columns: Tensor, hop: int) -> Tensor:
    """(B, n, T) -> (B, (T - 1) * hop + n)."""
    _, size, frames = columns.shape
    return F.fold(columns, (1, (frames - 1) * hop + size), (1, size), stride=(1, hop)).flatten(1)
