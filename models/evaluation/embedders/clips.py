"""Sound files as embedders take them, and what is wrong with some."""

from pathlib import Path

import numpy as np
import soundfile

from sonolume.preprocessors.mel_features import MIN_SECONDS
from sonolume.utils import audio
from sonolume.utils.audio import SILENCE_PEAK
from sonolume.utils.errors import UserError

FULL_SCALE = 1 - 1 / 32768  # the largest value of 16 bits
RUN = 3  # samples in a row at full scale: a flat top; one alone may be a normalised peak


def read(path: Path, sample_rate: int) -> tuple[np.ndarray, bool]:
    """Mono float32 (n,) at `sample_rate`, and whether it was recorded or written with flat tops.

    Raises:
        UserError: unreadable, shorter than 0.1 s, or not finite.
    """
    wave = audio.load(path, sample_rate)
    if len(wave) < MIN_SECONDS * sample_rate:
        raise UserError(f"{path}: shorter than {MIN_SECONDS} s")
    if not np.isfinite(wave).all():
        raise UserError(f"{path}: holds NaN or infinite values")
    return wave, _is_written_clipped(path, wave)


def is_silent(wave: np.ndarray) -> bool:
    """No sample reaches -80 dB of full scale."""
    return bool(np.abs(wave).max(initial=0) < SILENCE_PEAK)


def is_clipped(wave: np.ndarray) -> bool:
    """Some channel of (n,) or (channels, n) stays at full scale for three samples or more."""
    top = np.abs(np.atleast_2d(wave)) >= FULL_SCALE
    last = top.shape[1] - RUN + 1  # beginnings of a run
    return last > 0 and bool(np.logical_and.reduce([top[:, shift : last + shift] for shift in range(RUN)]).any())


def _is_written_clipped(path: Path, wave: np.ndarray) -> bool:
    """Looks at the file's own samples, because mixing and resampling round off flat tops."""
    try:
        blocks = soundfile.blocks(path, 65536, overlap=RUN - 1, dtype="float32", always_2d=True)
        return any(is_clipped(block.T) for block in blocks)
    except soundfile.SoundFileError:  # a format that only PyAV reads
        return is_clipped(wave)
