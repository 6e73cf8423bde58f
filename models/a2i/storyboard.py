"""Contact sheet of a storyboard: the pictures of a long recording in the order of time."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sonolume.utils.image import CELL, open_image, picture_grid

COLUMNS = 6  # pictures in a row
EMPTY_COLOUR = (238, 238, 238)  # of a silent window, which has no picture


def write_sheet(path: Path, pictures: Sequence[Path | None], hop: float) -> None:
    """Write a contact sheet (PNG) with the start time of each row above it, and the offset above each column.

    Args:
        pictures: files in the order of time; None for a silent window, which stays grey.
        hop: seconds from one window to the next.
    """
    width = min(COLUMNS, len(pictures))
    blank = Image.new("RGB", (CELL, CELL), EMPTY_COLOUR)
    images = [blank if picture is None else open_image(picture) for picture in pictures]
    titles = ["" if not column else f"+{column * hop:g} s" for column in range(width)]
    starts = [format_time(first * hop) for first in range(0, len(pictures), width)]
    picture_grid(path, [images[column::width] for column in range(width)], titles, starts)


def format_time(seconds: float) -> str:
    """Format seconds as minutes and seconds: 75.5 -> "1:15.5"."""
    minutes, rest = divmod(round(seconds, 2), 60)
    text = f"{int(minutes)}:{rest:05.2f}"
    return text.rstrip("0").removesuffix(".") if rest % 1 else text.removesuffix(".00")
