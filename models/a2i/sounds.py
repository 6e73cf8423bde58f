"""Files -> sounds to be seen: read, looked at, cut into the windows of a storyboard."""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from sonolume.models.a2i.storyboard import Span, spans
from sonolume.modules.inpainting import SILENT
from sonolume.utils import audio, manifest
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError, first_line


@dataclass(frozen=True)
class Piece:
    """What one picture is made of: a recording, or a window of one."""

    path: Path
    span: Span
    window: int | None = None
    """its number in a storyboard"""
    windows: int = 1
    """of the storyboard"""


class Reader:
    """Reads sounds one by one; what cannot be used is told on stderr, counted and passed over.

    Args:
        shortest: seconds that a sound must last. window, hop: seconds, of a storyboard.
    """

    def __init__(self, sample_rate: int, shortest: float, window: float | None, hop: float | None) -> None:
        self.sample_rate, self.shortest, self.window, self.hop = sample_rate, shortest, window, hop
        self.left_out: Counter[str] = Counter()
        self.errors: list[SoundError] = []

    def read(self, path: Path) -> list[tuple[Piece, np.ndarray]]:
        """The sound, or its windows, each with its wave (n,); none if it cannot be used."""
        try:
            wave = self._load(path)
        except SoundError as error:
            self.left_out[error.reason] += 1
            self.errors.append(error)
            return []
        whole = Span(0.0, len(wave) / self.sample_rate)
        if self.window is None:
            return [(Piece(path, whole), wave)]
        found = spans(whole.end, self.window, self.hop or self.window, self.shortest)
        pieces = [(Piece(path, span, number, len(found)), self._cut(wave, span)) for number, span in enumerate(found)]
        heard = [(piece, part) for piece, part in pieces if np.abs(part).max() >= SILENT]
        if len(heard) < len(pieces):
            print(f"{path}: {len(pieces) - len(heard)} of {len(pieces)} windows are silent: no pictures of them",
                  file=sys.stderr)  # fmt: skip
        return heard

    def _load(self, path: Path) -> np.ndarray:
        wave = audio.load(path, self.sample_rate)
        seconds = len(wave) / self.sample_rate
        if seconds < self.shortest:
            raise SoundError(f"{path}: lasts {seconds:.3g} s, at least {self.shortest:g} s are needed", "too short")
        if not np.isfinite(wave).all():
            raise SoundError(f"{path}: holds NaN or infinite values: convert it anew", "not finite")
        if np.abs(wave).max() < SILENT:
            raise SoundError(f"{path}: is silent: there is nothing to see", "silent")
        return wave

    def _cut(self, wave: np.ndarray, span: Span) -> np.ndarray:
        return wave[round(span.start * self.sample_rate) : round(span.end * self.sample_rate)]

    def report(self, given: int) -> None:
        """Say what was left out of `given` sounds.

        Raises:
            UserError: all of them; with the reason itself if it was one.
        """
        if len(self.errors) == given == 1:
            raise self.errors[0]
        for error in self.errors:
            print(f"left out: {error}", file=sys.stderr)
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        if len(self.errors) == given:
            raise UserError(f"none of the {given} sounds can be used: {reasons}")
        if self.errors:
            print(f"{len(self.errors)} of {given} sounds were left out: {reasons}", file=sys.stderr)


def find(given: list[Path] | None, recipe: str) -> list[Path]:
    """The files of --audio, those of folders sorted, none twice.

    Raises:
        UserError: none given, one that is not there, or a folder without sounds.
    """
    if not given:
        raise UserError(f"{recipe} needs --audio FILE_OR_FOLDER")
    return list(dict.fromkeys(path for place in given for path in manifest.find_sounds(place)))


def read_picture(path: Path, flag: str) -> Image.Image:
    """A picture file as RGB, turned as its camera noted, transparent parts on white.

    Raises:
        UserError: not readable as a picture.
    """
    try:
        with Image.open(path) as file:
            turned = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{flag} {path}: not readable as a picture ({first_line(error)})") from error
    paper = Image.new("RGBA", turned.size, "white")
    return Image.alpha_composite(paper, turned).convert("RGB")
