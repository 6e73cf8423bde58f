"""Input sounds of inference: found, checked, and cut into the windows of a storyboard."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sonolume.utils import audio, manifest
from sonolume.utils.audio import SILENCE_PEAK, SoundError
from sonolume.utils.errors import UserError


@dataclass(frozen=True)
class Clip:
    """Source of one picture: a recording, or one window of its storyboard."""

    path: Path
    start: float
    """seconds"""
    end: float
    """seconds"""
    window: int | None = None
    """index in the storyboard"""
    windows: int = 1
    """number of windows in the storyboard"""

    @property
    def seconds(self) -> list[float]:
        """[start, end] for a sidecar."""
        return [round(self.start, 3), round(self.end, 3)]


class SoundReader:
    """Reads sounds one by one; unusable ones are collected in `errors`.

    Args:
        min_seconds: duration of the shortest usable sound.
        window, hop: seconds, of a storyboard.
    """

    def __init__(self, sample_rate: int, min_seconds: float, window: float | None, hop: float | None) -> None:
        self.sample_rate, self.min_seconds, self.window, self.hop = sample_rate, min_seconds, window, hop
        self.errors: list[SoundError] = []

    def read(self, path: Path) -> list[tuple[Clip, np.ndarray]]:
        """Read a sound, or the windows of its storyboard that are not silent, with their waves (n,)."""
        try:
            wave = audio.load(path, self.sample_rate)
            audio.check_wave(wave, self.sample_rate, path, self.min_seconds)
        except SoundError as error:
            self.errors.append(error)
            return []
        seconds = len(wave) / self.sample_rate
        if self.window is None:
            return [(Clip(path, 0.0, seconds), wave)]
        spans = split_windows(seconds, self.window, self.hop or self.window, self.min_seconds)
        clips = [Clip(path, *span, number, len(spans)) for number, span in enumerate(spans)]
        pairs = [(clip, wave[round(clip.start * self.sample_rate) : round(clip.end * self.sample_rate)])
                 for clip in clips]  # fmt: skip
        audible = [(clip, part) for clip, part in pairs if np.abs(part).max() >= SILENCE_PEAK]
        if len(audible) < len(pairs):
            silent = len(pairs) - len(audible)
            print(f"{path}: {silent} of {len(pairs)} windows are silent: no pictures of them", file=sys.stderr)
        return audible


def split_windows(seconds: float, window: float, hop: float, shortest: float) -> list[tuple[float, float]]:
    """Split a recording into windows (start, end) every `hop` seconds.

    The last window ends with the recording; it is dropped if it would be shorter than `shortest` seconds.
    """
    spans = [(0.0, min(window, seconds))]
    while spans[-1][1] < seconds:
        start = len(spans) * hop
        if seconds - start < shortest:
            break
        spans.append((start, min(start + window, seconds)))
    return spans


def report_unusable(errors: Sequence[SoundError], count: int) -> None:
    """Print which of `count` sounds were left out, and why.

    Raises:
        UserError: not a single sound is usable.
    """
    if len(errors) == count == 1:
        raise errors[0]
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    reasons = ", ".join(f"{number} {reason}" for reason, number in Counter(e.reason for e in errors).most_common())
    if len(errors) == count:
        raise UserError(f"none of the {count} sounds can be used: {reasons}")
    if errors:
        print(f"{len(errors)} of {count} sounds were left out: {reasons}", file=sys.stderr)


def find_sounds(places: Sequence[Path]) -> list[Path]:
    """List the sound files of --audio without duplicates, those of folders sorted.

    Raises:
        UserError: there is no --audio, or one does not exist, or is a folder without sounds.
    """
    if not places:
        raise UserError("--audio is missing: name a sound file, or a folder of them")
    return list(dict.fromkeys(path for place in places for path in manifest.find_sounds(place)))
