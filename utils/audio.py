"""Read and write sound files as float32 numpy arrays in [-1, 1]. Free of torch, so that workers start quickly."""

import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from sonolume.utils import paths
from sonolume.utils.errors import FileError, UserError, first_line
from sonolume.utils.files import PYAV_SUFFIXES, atomic_path
from sonolume.utils.text import message

BLOCK_FRAMES = 131072  # read at a time, so that hours of sound are never in memory at their original rate
MIN_SAMPLE_RATE = 1000  # Hz; a header with a lower rate is wrong
LENGTH_TOLERANCE = 0.1  # seconds that a file may be shorter than its header announces
SPAN_TOLERANCE = 0.01  # seconds that a span may end after the sound, whose length depends on the sample rate
SILENCE_PEAK = 1e-4  # -80 dB of full scale; a wave with a lower peak counts as silent
LARGEST_PEAK = 1e10  # of full scale; spectrograms and networks overflow far above
PYAV_REMEDY = paths.pip_install("video")
CONVERT = "if it is a sound, convert it to wav or flac"
PYAV_FORMATS = "mov,matroska,aac,asf,avi,mpeg,mpegts,wav,w64,flac,ogg,mp3,amr,ape,caf,aiff,wv"
_LENGTHS = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = 2**31 - 4096  # about this size and above: a placeholder of programs that write to a pipe

Block = tuple[int, np.ndarray]  # sample rate in Hz, float32 (n, channels)


class SoundError(FileError):
    """An unusable sound file."""


def load(path: Path | str, sample_rate: int, mono: bool = True, seconds: float | None = None) -> np.ndarray:
    """Read and resample a sound file, or the sound track of a video.

    Args:
        path: any format of libsndfile (wav, flac, ogg, mp3 ...); with PyAV also m4a, aac, mp4, webm, mkv ...
        sample_rate: rate of the result, in Hz.
        mono: average the channels.
        seconds: longest duration to read from the start; bounds the memory whatever the length of the file.

    Returns:
        float32 (n,) if mono, else (channels, n), not normalised: float files may exceed [-1, 1].
        Possibly empty, silent or not finite: see `check_wave`.

    Raises:
        SoundError: a missing or unreadable file, or one that ends before `seconds` and the length in its header.
    """
    path = Path(path)
    if not path.is_file():
        raise SoundError(f"{path}: no such sound file", "missing")
    if not path.stat().st_size:
        raise SoundError(f"{path}: empty file", "empty")
    wanted = None if seconds is None else round(seconds * sample_rate)
    wave = _resample(blocks(path), sample_rate, mono, wanted)
    return np.ascontiguousarray(wave[:, 0] if mono else wave.T, dtype=np.float32)


def _resample(blocks: Iterator[Block], sample_rate: int, mono: bool, wanted: int | None) -> np.ndarray:
    """Resample block by block to (n, channels); the same samples as resampling the whole file at once."""
    parts, resampler, count = [np.zeros((0, 1), np.float32)], None, 0
    for rate, block in blocks:
        if mono and block.shape[1] > 1:
            block = _mix(block)
        if rate != sample_rate:
            resampler = resampler or soxr.ResampleStream(rate, sample_rate, block.shape[1], dtype="float32")
            block = resampler.resample_chunk(np.ascontiguousarray(block))
        parts.append(block)
        count += len(block)
        if wanted is not None and count >= wanted:
            break
    else:
        if resampler:
            parts.append(resampler.resample_chunk(np.zeros((0, parts[-1].shape[1]), np.float32), last=True))
    return np.concatenate(parts[1:] or parts)[:wanted]


def _mix(block: np.ndarray) -> np.ndarray:
    """Average the channels: (n, channels) -> (n, 1)."""
    if block.shape[1] == 2:
        return ((block[:, 0] + block[:, 1]) * np.float32(0.5))[:, None]  # the same bits, three times faster
    return np.ascontiguousarray(block.T).mean(axis=0)[:, None]  # ten times faster than along the last axis


class _Sequential(soundfile.SoundFile):
    """A file read from start to end. soundfile seeks after each block, which costs time and changes samples of mp3."""

    def seekable(self) -> bool:
        return False


def blocks(path: Path) -> Iterator[Block]:
    """Decode a sound file block by block with libsndfile, else with PyAV; raises as `load`."""
    try:
        file = _Sequential(encoded(path))
    except soundfile.SoundFileError as error:
        yield from _pyav_blocks(path, _reason(error))
        return
    if file.samplerate < MIN_SAMPLE_RATE:
        raise SoundError(f"{path}: not readable as sound (sample rate {file.samplerate} Hz in its header)")
    try:
        with file:
            while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                yield file.samplerate, block
            _check_length(path, file)
    except soundfile.SoundFileError as error:
        raise SoundError(f"{path}: damaged ({_reason(error)}); convert it again or leave it out") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")


def _check_length(path: Path, file: soundfile.SoundFile) -> None:
    """Raise a SoundError if the header of a wav, aiff or au file announces more samples than the file contains."""
    found = _LENGTHS.search(file.extra_info)
    announced, present = map(int, found.groups()) if found else (0, 0)
    seconds = file.frames / file.samplerate
    announced_seconds = seconds * announced / max(present, 1)
    if announced < _UNKNOWN_SIZE and announced_seconds - seconds > LENGTH_TOLERANCE:
        message = f"truncated: its header announces {announced_seconds:.2f} s, but it contains {seconds:.2f} s"
        raise SoundError(f"{path}: {message}; download it again, or convert it to keep this part", "truncated")


def _pyav_blocks(path: Path, libsndfile_error: str) -> Iterator[Block]:
    """Decode the first sound track of a file that libsndfile does not support."""
    known = path.suffix.lower() in PYAV_SUFFIXES
    unreadable = SoundError(f"{path}: not readable as sound ({libsndfile_error}); {CONVERT}")
    try:
        import av
    except ImportError as error:
        needs_pyav = SoundError(f"{path}: {path.suffix} files need PyAV: {PYAV_REMEDY}", "needs PyAV")
        raise (needs_pyav if known else unreadable) from error
    options = {"format_whitelist": PYAV_FORMATS, "protocol_whitelist": "file"}  # playlists are not followed
    try:
        with path.open("rb") as file, av.open(file, options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise SoundError(f"{path}: a video without a sound track", "no sound track")
            planar = av.AudioResampler(format="fltp")  # changes the sample format only
            for frame in container.decode(audio=0):
                for part in planar.resample(frame):
                    yield part.sample_rate, part.to_ndarray().T
    except (av.FFmpegError, ValueError) as error:
        damaged = SoundError(f"{path}: damaged or not sound ({first_line(error)}); {CONVERT}")
        raise (damaged if known else unreadable) from error


def encoded(path: Path) -> Any:
    """Name of a file for soundfile: as text, names that are not UTF-8 are a UnicodeEncodeError."""
    return os.fsencode(path)


def check_wave(
    wave: np.ndarray, sample_rate: int, name: Path | str, min_seconds: float = 0.0, silent_ok: bool = False
) -> None:
    """Raise a SoundError for a wave that is "empty", "NaN", "out of range", "too short" or "silent": its `reason`.

    Args:
        wave: (n,) or (channels, n).
        name: begins the error message, such as the path of the file; "" for none.
        min_seconds: shortest accepted duration; an empty wave is never accepted.
        silent_ok: accept a peak below -80 dB of full scale.
    """
    count, where = wave.shape[-1], f"{name}: " if str(name) else ""
    if not count:
        raise SoundError(f"{where}no samples", "empty")
    if broken := np.count_nonzero(~np.isfinite(wave)):
        raise SoundError(f"{where}{broken} samples are NaN or infinite: export the file again", "NaN")
    if count < min_seconds * sample_rate:
        seconds = count / sample_rate
        raise SoundError(f"{where}{seconds:.3f} s long, at least {min_seconds:.3g} s are needed", "too short")
    peak = np.abs(wave).max()
    if peak > LARGEST_PEAK:
        raise SoundError(f"{where}its peak is {peak:.1e} times full scale: export the file again", "out of range")
    if peak < SILENCE_PEAK and not silent_ok:
        raise SoundError(f"{where}silent: its peak is {peak:.1e} of full scale", "silent")


def is_silent(wave: np.ndarray) -> bool:
    """Test whether no sample reaches -80 dB of full scale."""
    return bool(np.abs(wave).max(initial=0) < SILENCE_PEAK)


def report_unusable(errors: Sequence[FileError], count: int, what: str = "sounds") -> None:
    """Print which of `count` files were left out, and why.

    Args:
        what: name of these files, for messages.

    Raises:
        UserError: not a single one is usable.
    """
    if len(errors) == count == 1:
        raise errors[0]
    for error in errors:
        message(f"left out: {error}")
    reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(e.reason for e in errors).most_common())
    if len(errors) == count:
        raise UserError(f"none of the {count} {what} can be used: {reasons}")
    if errors:
        message(f"{len(errors)} of {count} {what} were left out: {reasons}")


def cut_span(wave: np.ndarray, sample_rate: int, start: float, end: float | None, name: str) -> np.ndarray:
    """Cut the seconds from `start` to `end` of a wave (n,); None is its end.

    Raises:
        SoundError: the wave is shorter; `name` begins the message.
    """
    first, last = round(start * sample_rate), len(wave) if end is None else round(end * sample_rate)
    if first >= len(wave) or last > len(wave) + SPAN_TOLERANCE * sample_rate:
        seconds = round(len(wave) / sample_rate, 3)
        raise SoundError(f"{name} lies outside the sound, which lasts {seconds:g} s", "too short")
    return wave[first:last]


def format_span(start: float, end: float | None) -> str:
    """Format seconds as they are given to --span: "3-6.8", "3-"."""
    return f"{start:g}-{'' if end is None else f'{end:g}'}"


def split_windows(wave: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Cut adjacent windows of `size` samples; the last one ends with the sound, and so may overlap."""
    if not size or len(wave) <= size:
        return [wave]
    starts = [*range(0, len(wave) - size, size), len(wave) - size]
    return [wave[start : start + size] for start in starts]


def batches_by_length(lengths: list[int], size: int, ragged: bool = False) -> list[list[int]]:
    """Indices of each batch, shortest windows first, which wastes the least padding; `ragged` mixes lengths."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups = [order] if ragged else [list(group) for _, group in itertools.groupby(order, lengths.__getitem__)]
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def limit_peak(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale a wave down to a peak of 1 where it exceeds full scale, and return it with the gain applied (at most 1)."""
    peak = float(np.abs(wave).max(initial=0.0))
    return (wave / peak, 1 / peak) if peak > 1 else (wave, 1.0)


def save_wav(path: Path | str, wave: np.ndarray, sample_rate: int) -> None:
    """Write (n,) or (channels, n) atomically as a 16-bit wav; values beyond [-1, 1] are clipped, NaN is an error."""
    if not np.isfinite(wave).all():
        raise ValueError(f"{path}: the wave contains NaN or infinite values")
    samples = np.clip(np.round(wave * 32768.0), -32768, 32767).astype(np.int16)  # 16-bit files survive load and save
    memory = io.BytesIO()  # libsndfile hides the system's error (disk full), write_bytes raises it
    soundfile.write(memory, samples.T, sample_rate, format="WAV", subtype="PCM_16")
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(memory.getvalue())
