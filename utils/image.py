"""Image files in, and contact sheets out."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sonolume.utils.errors import UserError, first_line
from sonolume.utils.files import atomic_path

CELL = 192  # pixels, the longer side of every picture
_GAP, _LINE, _SIZE = 8, 17, 14  # margins, height of a line and of its letters, in pixels
_LINES = 3  # of one title; a longer one is cut off with dots
_INK, _PAPER, _EMPTY = (40, 40, 40), "white", (238, 238, 238)


def open_image(path: Path | str) -> Image.Image:
    """Load an image file as RGB, rotated according to its EXIF orientation, with transparent areas on white.

    Raises:
        UserError: the file is missing or is not a readable image.
    """
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
    """Write a PNG that compares pictures: column i is `columns[i]` under `titles[i]`; it appears whole or not at all.

    Pictures of any size are fitted into squares of `CELL`, small ones enlarged by a whole factor without blurring. A
    column that is shorter than the others ends in grey squares.

    Args:
        labels: one a row, above it, such as the captions.

    Raises:
        ValueError: no pictures, or not one title a column, or not one label a row.
    """
    rows = max(map(len, columns), default=0)
    if not rows:
        raise ValueError(f"{path}: there are no pictures to show")
    if len(titles) != len(columns) or len(labels) not in (0, rows):
        raise ValueError(
            f"{path}: {len(columns)} columns of {rows} rows have {len(titles)} titles and {len(labels)} labels"
        )
    wrapped = [_wrapped(title, CELL) for title in titles]
    over = [_wrapped(label, len(columns) * (CELL + _GAP)) for label in labels] or [[]] * rows
    top = _GAP + _LINE * max(map(len, wrapped))
    heights = [_LINE * len(lines) + CELL + _GAP for lines in over]
    sheet = Image.new("RGB", (_GAP + len(columns) * (CELL + _GAP), top + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, lines in enumerate(wrapped):
        _write(draw, lines, _left(number), _GAP // 2)
    for row, lines in enumerate(over):
        y = top + sum(heights[:row])
        _write(draw, lines, _GAP, y)
        for number, column in enumerate(columns):
            cell = _cell(column[row] if row < len(column) else None)
            sheet.paste(cell, (_left(number), y + _LINE * len(lines)))
    with atomic_path(Path(path)) as temporary:
        sheet.save(temporary, format="PNG")


def _left(column: int) -> int:
    return _GAP + column * (CELL + _GAP)


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a title that fit into `width` pixels, no more than `_LINES`."""
    font = ImageFont.load_default(_SIZE)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(_cut(word, width))
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], _cut(f"{lines[_LINES - 1]} ...", width)]
    return lines


def _cut(text: str, width: int) -> str:
    """The text itself, or as much of its beginning as leaves room for dots."""
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
    """A square with the picture in its middle, grey where there is none."""
    square = Image.new("RGB", (CELL, CELL), _EMPTY if picture is None else _PAPER)
    if picture is None:
        return square
    longest = max(picture.size)
    scale = CELL // longest if longest <= CELL else CELL / longest
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    square.paste(fitted, ((CELL - fitted.width) // 2, (CELL - fitted.height) // 2))
    return square
