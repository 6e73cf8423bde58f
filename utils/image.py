"""Load images, and draw contact sheets."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sonolume.utils.errors import UserError, first_line
from sonolume.utils.files import atomic_path

MAX_PIXELS = 2**25  # of an opened image, 100 MB as RGB; larger ones are reduced
# raised by Pillow for damaged and foreign files
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
CELL = 192  # pixels of the longer side of every image
_GAP, _LINE, _SIZE = 8, 17, 14  # margins, line height and font size, in pixels
_LINES = 3  # lines of one title; a longer one ends in dots
_INK, _PAPER, _EMPTY = (40, 40, 40), "white", (238, 238, 238)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `open_image` reduces such images


def open_image(path: Path | str) -> Image.Image:
    """Load an image file as RGB, rotated according to its EXIF orientation, with transparent areas on white.

    Images of more than `MAX_PIXELS` are reduced by a whole factor, JPEGs while they are decoded, to bound the memory.

    Raises:
        UserError: a missing or damaged file, not an image, or more pixels than Pillow's limit (179 million).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such image file")
    try:
        with Image.open(path) as file:
            _shrink_jpeg(file)
            ImageOps.exif_transpose(file, in_place=True)
            factor = math.ceil(math.sqrt(file.width * file.height / MAX_PIXELS))
            return to_rgb(file.reduce(factor) if factor > 1 else file)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large ({first_line(error, 90)}): make it smaller") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable image ({first_line(error)}): convert it to png or jpg") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, transparent areas on white, 16-bit and float values to 8 bits."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey values, 16-bit integers or floats in [0, 1] or [0, 255], to 8 bits; Pillow would clip them."""
    values = np.asarray(image, np.float32)
    if image.mode.startswith("I"):
        values = values / (257 if image.mode != "I" or values.max() > 255 else 1)  # "I" holds any range
    elif values.max() <= 1:
        values = values * 255
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def _shrink_jpeg(file: Image.Image) -> None:
    """Let a JPEG of more than `MAX_PIXELS` be decoded at a half, a quarter or an eighth of its size."""
    scale = math.sqrt(MAX_PIXELS / (file.width * file.height))
    if file.format == "JPEG" and scale < 1:
        file.draft(None, (math.ceil(file.width * scale / 2), math.ceil(file.height * scale / 2)))


def picture_grid(
    path: Path | str, columns: list[list[Image.Image]], titles: list[str], labels: Sequence[str] = ()
) -> None:
    """Write a PNG that compares images: column i shows `columns[i]` under `titles[i]`.

    Images of any size are fitted into squares of `CELL`, small ones enlarged by a whole factor without blurring. A
    column shorter than the others ends in grey squares. `labels` stand above the rows.

    Raises:
        ValueError: no images, or the wrong number of titles or labels.
    """
    rows = max(map(len, columns), default=0)
    if not rows:
        raise ValueError(f"{path}: no pictures")
    if len(titles) != len(columns) or len(labels) not in (0, rows):
        raise ValueError(f"{path}: {len(titles)} titles, {len(labels)} labels for {len(columns)} columns, {rows} rows")
    wrapped = [_wrapped(title, CELL) for title in titles]
    over = [_wrapped(label, len(columns) * (CELL + _GAP)) for label in labels] or [[]] * rows
    left = [_GAP + number * (CELL + _GAP) for number in range(len(columns) + 1)]
    y = _GAP + _LINE * max(map(len, wrapped))
    sheet = Image.new("RGB", (left[-1], y + sum(_LINE * len(lines) + CELL + _GAP for lines in over)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for lines, x in zip(wrapped, left, strict=False):
        _write(draw, lines, x, _GAP // 2)
    for row, lines in enumerate(over):
        _write(draw, lines, _GAP, y)
        y += _LINE * len(lines)
        for column, x in zip(columns, left, strict=False):
            sheet.paste(_cell(column[row] if row < len(column) else None), (x, y))
        y += CELL + _GAP
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _wrapped(text: str, width: int) -> list[str]:
    """Wrap a title to lines of `width` pixels, at most `_LINES`."""
    font, lines = ImageFont.load_default(_SIZE), list[str]()
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(_cut(word, width))
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], _cut(f"{lines[_LINES - 1]} ...", width)]
    return lines


def _cut(text: str, width: int) -> str:
    """Shorten a text to `width` pixels, dots included."""
    font = ImageFont.load_default(_SIZE)
    if font.getlength(text) <= width:
        return text
    fits = next(end for end in range(len(text), -1, -1) if font.getlength(f"{text[:end]}...") <= width)
    return f"{text[:fits]}..."


def _write(draw: ImageDraw.ImageDraw, lines: list[str], x: int, y: int) -> None:
    font = ImageFont.load_default(_SIZE)
    for number, line in enumerate(lines):
        draw.text((x, y + number * _LINE), line, fill=_INK, font=font)


def _cell(picture: Image.Image | None) -> Image.Image:
    """Centre an image in a square; without an image the square is grey."""
    square = Image.new("RGB", (CELL, CELL), _EMPTY if picture is None else _PAPER)
    if picture is None:
        return square
    longest = max(picture.size)
    scale = CELL // longest if longest <= CELL else CELL / longest
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    square.paste(fitted, ((CELL - fitted.width) // 2, (CELL - fitted.height) // 2))
    return square
