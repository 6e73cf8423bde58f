"""A long recording as a row of pictures: which seconds each one shows, and a sheet with their times."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sonolume.utils.image import CELL, picture_grid

COLUMNS = 6  # of a sheet


@dataclass(frozen=True)
class Span:
    """Part of a recording, in seconds."""

    start: float
    end: float


def spans(seconds: float, window: float, hop: float, shortest: float) -> list[Span]:
    """Windows every `hop` seconds; the last one ends with the recording, if at least `shortest` of it is left."""
    found = [Span(0.0, min(window, seconds))]
    while found[-1].end < seconds:
        start = len(found) * hop
        if seconds - start < shortest:
            break
        found.append(Span(start, min(start + window, seconds)))
    return found


def clock(seconds: float) -> str:
    """75.5 -> "1:15.5"."""
    minutes, rest = divmod(round(seconds, 2), 60)
    whole, _, fraction = f"{rest:.2f}".partition(".")
    return f"{int(minutes)}:{int(whole):02d}" + (f".{fraction}".rstrip("0") if int(fraction) else "")


def sheet(path: Path, pictures: Sequence[Path | None], starts: Sequence[float], hop: float) -> None:
    """A contact sheet (PNG): each row begins at the time above it, each column adds what stands above it.

    Args:
        pictures: files in the order of time; None where nothing was heard, which is left grey.
        starts: seconds at which they begin, every `hop`.
    """
    width = min(COLUMNS, len(pictures))
    images = [_read(picture) for picture in pictures]
    rows = range(0, len(pictures), width)
    titles = ["" if not column else f"+{column * hop:g} s" for column in range(width)]
    picture_grid(path, [images[column::width] for column in range(width)], titles, [clock(starts[row]) for row in rows])


def _read(path: Path | None) -> Image.Image:
    if path is None:
        return Image.new("RGB", (CELL, CELL), (238, 238, 238))
    with Image.open(path) as picture:
        return picture.convert("RGB")
