"""Load images, and draw contact sheets and spectrograms."""

import itertools
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from sonolume.utils.errors import FileError, first_line
from sonolume.utils.files import atomic_path
from sonolume.utils.text import printable

MAX_PIXELS = 2**25  # of an opened image, 100 MB as RGB; larger ones are reduced
# raised by Pillow for damaged and foreign files
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
CELL = 192  # pixels of the longer side of an image in a contact sheet
_GAP, _LINE, _SIZE, _CHARACTER = 8, 17, 14, 7  # margin, line height, font size and width of a character, in pixels
_LINES = 3  # lines of one title; a longer one ends in dots
_INK, _PAPER, _EMPTY = (40, 40, 40), "white", (238, 238, 238)
_ANCHORS = np.array(  # dark blue to pale yellow, of increasing brightness
    [[6, 8, 28], [38, 22, 92], [104, 28, 118], [176, 46, 96], [232, 92, 58], [252, 168, 60], [255, 248, 196]]
)
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16000)
_LEFT, _BOTTOM, _TOP, _RIGHT = 44, 22, 22, 16  # margins of a spectrogram with axes, in pixels
_TICK_DISTANCE = 11  # pixels between ticks in Hz, at least the height of a label
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `open_image` reduces such images


class PictureError(FileError):
    """An unusable image file."""


def open_image(path: Path | str) -> Image.Image:
    """Load an image file as RGB, rotated according to its EXIF orientation, with transparent areas on white.

    Images of more than `MAX_PIXELS` are reduced by a whole factor, JPEGs while they are decoded, to bound the memory.

    Raises:
        PictureError: a missing or damaged file, not an image, or more pixels than Pillow's limit (179 million).
    """
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{path}: no such image file", "missing")
    try:
        with Image.open(path) as file:
            scale = math.sqrt(MAX_PIXELS / (file.width * file.height))
            if file.format == "JPEG" and scale < 1:  # decoded at a half, a quarter or an eighth of its size
                file.draft(None, (math.ceil(file.width * scale / 2), math.ceil(file.height * scale / 2)))
            ImageOps.exif_transpose(file, in_place=True)
            factor = math.ceil(math.sqrt(file.width * file.height / MAX_PIXELS))
            return to_rgb(file.reduce(factor) if factor > 1 else file)
    except Image.DecompressionBombError as error:
        reason = f"{path}: too large ({first_line(error, 90)}): make it smaller"
        raise PictureError(reason, "too large") from error
    except UNREADABLE as error:
        raise PictureError(f"{path}: not a readable image ({first_line(error)}): convert it to png or jpg") from error


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


def picture_grid(
    path: Path | str, columns: Sequence[Sequence[Image.Image | None]], titles: list[str], labels: Sequence[str] = (),
    cell: tuple[int, int] = (CELL, CELL),
) -> None:  # fmt: skip
    """Write a PNG that compares images: column i shows `columns[i]` under `titles[i]`.

    Images of any size are fitted into cells, small ones enlarged by a whole factor without blurring. A column shorter
    than the others ends in grey cells. `labels` stand above the rows.

    Args:
        cell: width and height of a cell, in pixels.

    Raises:
        ValueError: no images, or the wrong number of titles or labels.
    """
    rows = max(map(len, columns), default=0)
    if not rows:
        raise ValueError(f"{path}: no pictures")
    if len(titles) != len(columns) or len(labels) not in (0, rows):
        raise ValueError(f"{path}: {len(titles)} titles, {len(labels)} labels for {len(columns)} columns, {rows} rows")
    width, height = cell
    titled = [draw_text(title, width) for title in titles]
    over = [draw_text(label, len(columns) * (width + _GAP)) for label in labels] or [draw_text("", width)] * rows
    left = [_GAP + number * (width + _GAP) for number in range(len(columns) + 1)]
    y = _GAP + max(title.height for title in titled)
    sheet = Image.new("RGB", (left[-1], y + sum(label.height + height + _GAP for label in over)), _PAPER)
    for title, x in zip(titled, left, strict=False):
        sheet.paste(title, (x, _GAP // 2))
    for label, pictures in zip(over, itertools.zip_longest(*columns), strict=True):
        sheet.paste(label, (_GAP, y))
        y += label.height
        for picture, x in zip(pictures, left, strict=False):
            sheet.paste(_fitted(picture, cell) if picture else Image.new("RGB", cell, _EMPTY), (x, y))
        y += height + _GAP
    save_png(sheet, path)


def spectrogram_grid(
    path: Path, columns: list[np.ndarray], labels: list[str], titles: Sequence[str] = (), sample_rate: int = 16000,
    hop_size: int = 256, fmin: float = 0, fmax: float = 8000,
) -> None:  # fmt: skip
    """Write a PNG that compares clips: a row for each clip with its label above, a titled column for each source.

    `columns` are (clips, bands, frames) arrays of ln mel magnitudes, such as real and generated clips.
    """
    bands, frames = columns[0].shape[1:]
    seconds = frames * hop_size / sample_rate
    plots = [[_with_axes(plot_mel(log_mel), (2 * frames, 2 * bands), seconds, fmin, fmax) for log_mel in column]
             for column in (column[: len(labels)] for column in columns)]  # fmt: skip
    size = next(plot.size for column in plots for plot in column)
    picture_grid(path, plots, list(titles or [""] * len(columns)), labels, cell=size)


def spectrogram_png(
    path: Path, log_mel: np.ndarray, sample_rate: int = 16000, hop_size: int = 256, fmin: float = 0, fmax: float = 8000
) -> None:
    """Write a PNG of finite (bands, frames) ln mel magnitudes, with axes in seconds and Hz."""
    if log_mel.ndim != 2 or not log_mel.size or not np.isfinite(log_mel).all():
        raise ValueError(f"{path}: expected finite values (bands, frames), found shape {log_mel.shape}")
    bands, frames = log_mel.shape
    size = (frames * max(1, round(480 / frames)), bands * max(1, round(240 / bands)))
    save_png(_with_axes(plot_mel(log_mel), size, frames * hop_size / sample_rate, fmin, fmax), path)


def _with_axes(plot: Image.Image, size: tuple[int, int], seconds: float, fmin: float, fmax: float) -> Image.Image:
    """Enlarge a spectrogram to `size` and draw its axes: Hz on the mel scale to the left, seconds below.

    Ticks whose labels would overlap are left out.
    """
    picture = Image.new("RGB", (_LEFT + size[0] + _RIGHT, _TOP + size[1] + _BOTTOM), _PAPER)
    picture.paste(plot.resize(size, Image.Resampling.NEAREST), (_LEFT, _TOP))
    draw, bottom = ImageDraw.Draw(picture), _TOP + size[1]
    most = max(1, min(8, size[0] // 40))
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120) if seconds / s <= most), seconds / most)
    ticks = np.arange(0, seconds + 1e-6, step)
    for tick in ticks:
        x = _LEFT + round(tick / seconds * size[0])
        draw.line([(x, bottom), (x, bottom + 4)], fill=_INK)
        draw.text((x, bottom + 6), f"{tick:.3g}{' s' if tick == ticks[-1] else ''}", fill=_INK, anchor="ma")
    draw.text((_LEFT - 6, 2), "Hz", fill=_INK, anchor="ra")
    low, high, last = _slaney(fmin), _slaney(fmax), bottom + _TICK_DISTANCE
    for tick in (hertz for hertz in _TICKS_HZ if fmin <= hertz <= fmax):
        y = bottom - round((_slaney(tick) - low) / (high - low) * size[1])
        if last - y >= _TICK_DISTANCE:
            draw.line([(_LEFT - 4, y), (_LEFT, y)], fill=_INK)
            draw.text((_LEFT - 6, y), f"{tick}", fill=_INK, anchor="rm")
            last = y
    return picture


def colours(log_mel: np.ndarray, dynamic_range: float = 9.0) -> np.ndarray:
    """Colour ln magnitudes (bands, frames) -> uint8 (bands, frames, 3), from dark to the brightness of the maximum.

    `dynamic_range` in nepers below the maximum is dark; 9 nepers are 78 dB. Pure silence stays dark.
    """
    top = max(float(log_mel.max()), dynamic_range - 11.5)  # silence is ln(1e-5) = -11.5
    level = np.clip((log_mel - top) / dynamic_range + 1.0, 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, len(_ANCHORS))
    return np.stack([np.interp(level, steps, channel) for channel in _ANCHORS.T], axis=-1).round().astype(np.uint8)


def plot_mel(log_mel: np.ndarray) -> Image.Image:
    """Draw (bands, frames) ln mel magnitudes with a pixel for each value, band 0 at the bottom."""
    return Image.fromarray(np.ascontiguousarray(colours(log_mel)[::-1]))


def save_png(image: Image.Image, path: Path | str) -> None:
    """Write a PNG, whole or not at all."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def draw_text(text: str, width: int) -> Image.Image:
    """Draw a title in lines that fit into `width` pixels, at most `_LINES`; a longer one ends in dots."""
    lines = textwrap.wrap(printable(text), max(3, width // _CHARACTER), max_lines=_LINES, placeholder="...")
    drawn = Image.new("RGB", (width, _LINE * len(lines)), _PAPER)  # cuts a line of unusually wide characters
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(_SIZE)
    for number, line in enumerate(lines):
        draw.text((0, number * _LINE), line, fill=_INK, font=font)
    return drawn


def with_caption(picture: Image.Image, text: str, cell: tuple[int, int] = (CELL, CELL)) -> Image.Image:
    """Fit an image into a cell of a contact sheet, with a line of text below it."""
    captioned = Image.new("RGB", (cell[0], cell[1] + _LINE), _PAPER)
    captioned.paste(_fitted(picture, cell), (0, 0))
    captioned.paste(draw_text(text, cell[0]).crop((0, 0, cell[0], _LINE)), (0, cell[1]))
    return captioned


def _fitted(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Centre an image in a cell, enlarged or reduced to fit."""
    ratio = min(cell[0] / picture.width, cell[1] / picture.height)
    scale = int(ratio) if ratio >= 1 else ratio
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    centred = Image.new("RGB", cell, _PAPER)
    centred.paste(fitted, ((cell[0] - fitted.width) // 2, (cell[1] - fitted.height) // 2))
    return centred


def _slaney(hertz: float) -> float:
    """Convert Hz to mel: linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998)."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)
