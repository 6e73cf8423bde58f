"""Parts of sound files of which pictures are drawn: whole sounds, spans of them, or the windows of a storyboard."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sonolume.config.options import Spans
from sonolume.models.a2i.sound_encoder import LongSounds, SoundInput, encoded_seconds
from sonolume.utils import audio
from sonolume.utils.text import message


@dataclass(frozen=True)
class Clip:
    """Source of one picture: a recording, or one window of its storyboard. All seconds are rounded to milliseconds."""

    path: Path
    seconds: list[float]  # start and end
    encoded: list[list[float]]  # start and end of the parts that are encoded
    window: int | None = None  # index in the storyboard
    windows: int = 1  # number of windows in the storyboard


def read_clips(
    path: Path, encoder: SoundInput, average: bool = False, spans: Spans | None = None,
    window: float | None = None, hop: float | None = None,
) -> list[tuple[Clip, np.ndarray]]:  # fmt: skip
    """Read a sound, or the windows of its storyboard that are not silent, with their waves (n,).

    A line on stderr says which seconds are used, if these are not all.

    Args:
        average: as for `encoded_seconds`.
        spans: of --span; the sound is cut to the first one.
        window, hop: seconds of a window of the storyboard, and from one to the next (default: the window).

    Raises:
        SoundError: the file is unreadable, too short, too long, silent or not finite.
    """
    rate = encoder.sample_rate
    wave, start, total, name = load_span(path, rate, spans)
    audio.check_wave(wave, rate, name, encoder.min_seconds)
    seconds = len(wave) / rate
    parts = split_windows(seconds, window, hop or window, encoder.min_seconds) if window else [(0.0, seconds)]
    clips: list[tuple[Clip, np.ndarray]] = []
    for number, (first, last) in enumerate(parts):
        part = wave[round(first * rate) : round(last * rate)]
        if not audio.is_silent(part):
            encoded = [_rounded(start + first, *span) for span in encoded_seconds(part, encoder, average, name)]
            clip = Clip(path, _rounded(start, first, last), encoded, number if window else None, len(parts))
            clips.append((clip, part))
    if len(clips) < len(parts):
        message(f"{path}: {len(parts) - len(clips)} of {len(parts)} windows are silent: no pictures of them")
    is_long = any(len(part) > round(encoder.window * rate) for _, part in clips)
    used = _rounded(start, 0, seconds)
    if is_long and encoder.long_sounds is not LongSounds.mean:
        which = "first" if encoder.long_sounds is LongSounds.beginning else "loudest"
        message(f"{path}: {_long_sound(used, clips[0][0], f'{which} {encoder.window:g} s', total, average)}")
    elif spans:
        message(f"{path}: {_of(used, total)} are used")
    return clips


def load_span(path: Path, sample_rate: int, spans: Spans | None) -> tuple[np.ndarray, float, float, str]:
    """Read a sound, cut to the first of `spans` -> wave (n,), its start and the length of the file in s, a name.

    Raises:
        SoundError: the file is unreadable, or shorter than the span.
    """
    wave = audio.load(path, sample_rate)
    total = len(wave) / sample_rate
    if not spans:
        return wave, 0.0, total, str(path)
    start, end = spans[0]
    name = f"{path}: --span {audio.format_span(start, end)}"
    return audio.cut_span(wave, sample_rate, start, end, name), start, total, name


def _long_sound(used: list[float], clip: Clip, window: str, total: float, average: bool) -> str:
    """Describe which of the `used` seconds of a sound are encoded, where its first clip is longer than a `window`."""
    if average:
        mean = f"the mean of {len(clip.encoded)} windows of {window.partition(' ')[2]}"
        return f"{_of(used, total)} are used, {'each window as ' if clip.window is not None else ''}{mean}"
    if clip.window is None:
        return f"its {window} are used ({_of(clip.encoded[0], total)}); --span chooses others, --average uses all"
    return f"the {window} of each window are used; --average uses all"


def _rounded(offset: float, start: float, end: float) -> list[float]:
    return [round(offset + start, 3), round(offset + end, 3)]


def _of(span: list[float], seconds: float) -> str:
    """Format a span of a sound: "4.2-7.975 of 12 s"."""
    return f"{audio.format_span(*span)} of {round(seconds, 3):g} s"


def split_windows(seconds: float, window: float, hop: float, shortest: float) -> list[tuple[float, float]]:
    """Split a recording into windows (start, end) every `hop` seconds.

    The last window ends with the recording; it is dropped if it would be shorter than `shortest` seconds.
    """
    spans = [(0.0, min(window, seconds))]
    while spans[-1][1] < seconds and seconds - len(spans) * hop >= shortest:
        start = len(spans) * hop
        spans.append((start, min(start + window, seconds)))
    return spans
