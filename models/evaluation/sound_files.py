"""Sound files as evaluation reads them, with the faults that a report counts."""

from pathlib import Path

import numpy as np
import soundfile

from sonolume.utils import audio

MIN_SECONDS = 0.1  # shorter sounds are not scored
FULL_SCALE = 1 - 1 / 32768  # the largest value of 16 bits
CLIPPED_RUN = 3  # consecutive samples at full scale; a single one may be a normalised peak


def read_sound(path: Path, sample_rate: int) -> tuple[np.ndarray, bool]:
    """Read a sound as mono float32 (n,) at `sample_rate`, and detect whether its file has flat tops.

    Raises:
        UserError: unreadable, shorter than 0.1 s, or not finite.
    """
    wave = audio.load(path, sample_rate)
    audio.check_wave(wave, sample_rate, path, MIN_SECONDS, silent_ok=True)
    try:  # the file's own samples: mixing and resampling round off flat tops
        blocks = soundfile.blocks(path, 65536, overlap=CLIPPED_RUN - 1, dtype="float32", always_2d=True)
        return wave, any(is_clipped(block.T) for block in blocks)
    except soundfile.SoundFileError:  # a format that only PyAV reads
        return wave, is_clipped(wave)


def is_silent(wave: np.ndarray) -> bool:
    """Test whether no sample reaches -80 dB of full scale."""
    return bool(np.abs(wave).max(initial=0) < audio.SILENCE_PEAK)


def is_clipped(wave: np.ndarray) -> bool:
    """Test whether a channel of (n,) or (channels, n) stays at full scale for three samples or more."""
    top = np.abs(np.atleast_2d(wave)) >= FULL_SCALE
    starts = top.shape[1] - CLIPPED_RUN + 1
    return starts > 0 and bool(np.all([top[:, shift : starts + shift] for shift in range(CLIPPED_RUN)], axis=0).any())
