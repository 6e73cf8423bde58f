"""Load images, and draw contact sheets."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sonolume.utils.errors import UserError, first_line
from sonolume.utils.files import atomic_path

CELL = 192  # pixels of the longer side of every image
_GAP, _LINE, _SIZE = 8, 17, 14  # margins, line height and font size, in pixels
_LINES = 3  # lines of one title; a longer one ends in dots
_INK, _PAPER, _EMPTY = (40, 40, 40), "white", (238, 238, 238)


def open_image(path: Path | str) -> Image.Image:
    """Load an image file as RGB, rotated according to its EXIF orientation, with transparent areas on white."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such image file")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if not image.has_transparency_data:
                return image.convert("RGB")
            image = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable image ({first_line(error)}): convert it to png or jpg") from error
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


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
