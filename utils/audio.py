"""Sound files in and out, as float32 numpy arrays in [-1, 1]. Free of torch, so that workers start quickly."""

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr

from sonolume.utils.errors import UserError
from sonolume.utils.files import atomic_path

_FILTER_SECONDS = 0.1  # read this much more than asked for, so that the resampler sees past the cut


def load(path: Path | str, sample_rate: int, mono: bool = True, seconds: float | None = None) -> np.ndarray:
    """Read and resample a sound file.

    Args:
        path: any format of libsndfile (wav, flac, ogg, mp3 ...).
        sample_rate: of the result, in Hz.
        mono: average the channels.
        seconds: read no more than this from the start.

    Returns:
        float32 (n,) if mono, else (channels, n). Possibly empty, silent or not finite: the caller decides.

    Raises:
        UserError: there is no such file, or it is not readable sound.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such sound file")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            frames = -1 if seconds is None else round((seconds + _FILTER_SECONDS) * rate)
            wave = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise UserError(f"{path}: not readable as sound ({reason}); convert it to wav or flac") from error
    if mono:
        wave = wave.mean(axis=1, keepdims=True)
    if rate != sample_rate and len(wave):
        wave = soxr.resample(wave, rate, sample_rate)
    if seconds is not None:
        wave = wave[: round(seconds * sample_rate)]
    return np.ascontiguousarray(wave[:, 0] if mono else wave.T, dtype=np.float32)


def save_wav(path: Path | str, wave: np.ndarray, sample_rate: int) -> None:
    """Write (n,) or (channels, n) as a 16-bit wav; values beyond [-1, 1] are clipped. The file is whole or absent.

    Raises:
        ValueError: the wave holds NaN or infinity.
        OSError: the disk refuses.
    """
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: the wave holds NaN or infinite values")
    samples = np.round(np.clip(wave, -1.0, 1.0) * 32767).astype(np.int16)
    memory = io.BytesIO()  # libsndfile hides the system's error (disk full); write_bytes raises it
    soundfile.write(memory, samples.T, sample_rate, format="WAV", subtype="PCM_16")
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(memory.getvalue())
