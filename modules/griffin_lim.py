"""Waves from log-mel spectrograms without a trained vocoder: non-negative least squares, then fast Griffin-Lim.

Perraudin, Balazs, Sondergaard, "A fast Griffin-Lim algorithm", WASPAA 2013.
Shapes: B batch, T frames, K = n_fft // 2 + 1 frequency bins, M mel bands.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.mel import MEL_FLOOR, MelSettings, MelSpectrogram
from sonolume.modules.windows import CallSize, Piece, cut_pieces

ON_CPU, ON_GPU = CallSize(2560, 2560), CallSize(40_000, 40_000)  # values of a piece should fit a CPU's cache
EPSILON = 1e-10


def mel_to_wave(
    log_mel: Tensor, settings: MelSettings | None = None, num_iters: int = 32, momentum: float = 0.99, seed: int = 0,
    start: Tensor | None = None, size: CallSize | None = None, on_chunk: Callable[[int, int], None] | None = None,
) -> Tensor:  # fmt: skip
    """ln mel (B, M, T) -> wave (B, T * hop_size), float32, aligned so that its `MelSpectrogram` has the same T frames.

    Deterministic: every item starts from the same random phases, drawn on the CPU from `seed`, so a result does not
    depend on the rest of the batch. Time grows linearly with B and T.

    Args:
        start: waves (B, T * hop_size) that give the initial phases instead, such as a vocoder's.
        size: frames that are computed at once, by default what is best for the device. A piece overlaps the next ones
            by all frames that can reach it in `num_iters` iterations, so that the wave is that of the whole.
        on_chunk: called as `on_chunk(number, total)` after each piece; an exception that it raises ends the work.

    Raises:
        ValueError: other bands than in `settings`, T too short to be reflected, or `start` of another length.
    """
    mel = MelSpectrogram(settings).to(log_mel.device)
    if log_mel.ndim != 3 or log_mel.shape[1] != mel.settings.n_mel:
        raise ValueError(f"log_mel is {tuple(log_mel.shape)}, expected (batch, {mel.settings.n_mel}, frames)")
    hop, frames = mel.settings.hop_size, log_mel.shape[-1]
    if frames * hop <= mel.settings.padding:
        raise ValueError(f"{frames} frames are too few for a padding of {mel.settings.padding} samples")
    if start is not None and start.shape != (len(log_mel), frames * hop):
        raise ValueError(f"start is {tuple(start.shape)}, expected {(len(log_mel), frames * hop)}")
    pieces = griffin_lim_pieces(log_mel, mel.settings, num_iters, size)
    wave = torch.empty(len(log_mel), frames * hop, device=log_mel.device)
    angles = None if start is not None else random_phases(mel.settings.n_fft // 2 + 1, frames, seed)  # (T, K)
    with torch.no_grad():
        for number, (sounds, first, end, left, right) in enumerate(pieces, 1):
            magnitude = mel_to_linear(log_mel[sounds, :, left:right].float(), mel.basis)      # (b, K, t)
            if start is not None:
                spectrum = mel.stft(start[sounds, left * hop : right * hop].float())          # (b, K, t) complex
            else:
                assert angles is not None
                some = angles[left:right].to(wave.device)
                spectrum = torch.polar(torch.ones_like(some), some).T                         # (K, t) complex
            part = fast_griffin_lim(magnitude, mel, num_iters, momentum, spectrum)            # (b, t * hop)
            wave[sounds, first * hop : end * hop] = part[:, (first - left) * hop : (end - left) * hop]
            if on_chunk:
                on_chunk(number, len(pieces))
    return wave


def griffin_lim_pieces(
    log_mel: Tensor, settings: MelSettings, num_iters: int, size: CallSize | None = None
) -> list[Piece]:
    """Pieces of ln mel (B, M, T) that `mel_to_wave` computes one after the other."""
    reach = math.ceil(settings.n_fft / settings.hop_size)  # one iteration mixes frames that share samples
    size = size or (ON_CPU if log_mel.device.type == "cpu" else ON_GPU)
    return cut_pieces(len(log_mel), log_mel.shape[-1], (num_iters + 1) * reach, size)


def mel_to_linear(log_mel: Tensor, basis: Tensor, num_updates: int = 40) -> Tensor:
    """ln mel (B, M, T) -> magnitudes >= 0 (B, K, T) whose mel bands are nearest in the least-squares sense.

    Starts at the clamped pseudo-inverse; multiplicative updates (Lee and Seung 2001) keep it non-negative.
    """
    target = (log_mel.exp() - MEL_FLOOR).clamp(min=0.0)     # (B, M, T); the floor stands for silence
    target = target.movedim(1, 0).flatten(1)                # (M, B * T)
    to_bands, to_bins = (Product(basis), Product(basis.T)) if basis.device.type == "cpu" else (basis, basis.T)
    numerator = to_bins @ target                            # (K, B * T)
    magnitude = (torch.linalg.pinv(basis) @ target).clamp_(min=0.0)
    magnitude += 1e-3 * numerator                           # zeros would stay zeros
    for _ in range(num_updates):
        denominator = to_bins @ (to_bands @ magnitude)
        magnitude *= numerator
        magnitude /= denominator + EPSILON
    return magnitude.unflatten(1, (len(log_mel), -1)).movedim(1, 0)


class Product:
    """`matrix @ x` for a sparse matrix (n, m): a mel filter bank has two bands for each frequency.

    Five times faster than a dense product on a CPU; torch's sparse matrices depend on how torch was built.
    """

    def __init__(self, matrix: Tensor) -> None:
        rows, self.columns = matrix.nonzero(as_tuple=True)
        self.weights = matrix[rows, self.columns]
        self.starts = torch.searchsorted(rows, torch.arange(len(matrix), device=matrix.device))  # of the rows

    def __matmul__(self, x: Tensor) -> Tensor:
        """(m, k) -> (n, k)."""
        return F.embedding_bag(self.columns, x, self.starts, mode="sum", per_sample_weights=self.weights)


def random_phases(bins: int, frames: int, seed: int) -> Tensor:
    """(T, K) angles, equal for every item of a batch."""
    turns = torch.rand(bins, frames, generator=torch.Generator().manual_seed(seed))
    return turns.mul_(2 * torch.pi).T


def fast_griffin_lim(magnitude: Tensor, mel: MelSpectrogram, num_iters: int, momentum: float, phase: Tensor) -> Tensor:
    """Magnitudes (B, K, T) and numbers with the initial phases, (K, T) or (B, K, T) -> wave (B, T * hop_size).

    Complex numbers are kept as pairs (B, T, K, 2), one frame after the other as the Fourier transform has them:
    everything else takes two to three times as long on a CPU.
    """
    magnitude = magnitude.transpose(1, 2).contiguous()                                          # (B, T, K)
    weight = overlap_add(mel.window.expand(1, magnitude.shape[1], -1).square(), mel.settings.hop_size)
    weight.clamp_(min=1e-8)                                                                     # (1, length)
    first = phase.transpose(-1, -2).expand(magnitude.shape)
    current = with_magnitude(torch.view_as_real(first.clone(memory_format=torch.contiguous_format)), magnitude)
    previous = torch.zeros(())
    for _ in range(num_iters):
        spectrum = mel.stft(inverse_stft(current, mel, weight)).transpose(1, 2).contiguous()    # c_n of the paper
        consistent = torch.view_as_real(spectrum)                                               # (B, T, K, 2)
        moved = torch.add(consistent, consistent - previous.to(consistent.device), alpha=momentum)  # t_n of the paper
        current, previous = with_magnitude(moved, magnitude), consistent
    return inverse_stft(current, mel, weight)


def with_magnitude(numbers: Tensor, magnitude: Tensor) -> Tensor:
    """Scale complex numbers (B, T, K, 2), in place, to magnitudes (B, T, K)."""
    real, imaginary = numbers.unbind(-1)
    scale = magnitude / real.square().addcmul_(imaginary, imaginary).sqrt_().add_(EPSILON)  # abs() is slower
    real *= scale
    imaginary *= scale
    return numbers


def inverse_stft(numbers: Tensor, mel: MelSpectrogram, weight: Tensor) -> Tensor:
    """(B, T, K, 2) and the windows' weight -> (B, T * hop_size), the least-squares inverse of `mel.stft`, cut to size.

    torch.istft refuses frames that are not centred: the window is zero at the outermost sample.
    """
    hop, padding = mel.settings.hop_size, mel.settings.padding
    pieces = torch.fft.irfft(torch.view_as_complex(numbers), n=mel.settings.n_fft).mul_(mel.window)  # (B, T, n_fft)
    wave = overlap_add(pieces, hop) / weight                                                    # (B, length)
    return wave[:, padding : padding + numbers.shape[1] * hop]


def overlap_add(pieces: Tensor, hop: int) -> Tensor:
    """(B, T, n) -> (B, (T - 1) * hop + n)."""
    count, frames, size = pieces.shape
    blocks = math.ceil(size / hop)
    wave = pieces.new_zeros(count, frames + blocks - 1, hop)
    for block, part in enumerate(pieces.split(hop, dim=-1)):                                    # (B, T, at most hop)
        wave[:, block : block + frames, : part.shape[-1]] += part
    return wave.flatten(1)[:, : (frames - 1) * hop + size]
