"""Images of log-mel spectrograms with axes in seconds and Hz."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sonolume.utils.files import atomic_path

_ANCHORS = np.array(  # dark blue to pale yellow, of increasing brightness
    [[6, 8, 28], [38, 22, 92], [104, 28, 118], [176, 46, 96], [232, 92, 58], [252, 168, 60], [255, 248, 196]]
)
_TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16000)
_LEFT, _BOTTOM, _TOP, _RIGHT = 46, 30, 8, 12  # margins in pixels
_INK = (40, 40, 40)


def spectrogram_png(
    path: Path, log_mel: np.ndarray, sample_rate: int = 16000, hop_size: int = 256, fmin: float = 0, fmax: float = 8000
) -> None:
    """Write a PNG of finite (bands, frames) ln mel magnitudes, band 0 at the bottom; frequencies are in Hz."""
    if log_mel.ndim != 2 or not log_mel.size or not np.isfinite(log_mel).all():
        raise ValueError(f"{path}: expected finite values (bands, frames), found shape {log_mel.shape}")
    pixels = colours(log_mel)[::-1]  # row 0 of an image is its top
    scale = (max(1, round(480 / log_mel.shape[1])), max(1, round(240 / log_mel.shape[0])))
    plot = Image.fromarray(pixels).resize((pixels.shape[1] * scale[0], pixels.shape[0] * scale[1]), Image.NEAREST)
    picture = Image.new("RGB", (_LEFT + plot.width + _RIGHT, _TOP + plot.height + _BOTTOM), "white")
    picture.paste(plot, (_LEFT, _TOP))
    draw = ImageDraw.Draw(picture)
    _time_axis(draw, plot.size, log_mel.shape[1] * hop_size / sample_rate)
    _frequency_axis(draw, plot.size, fmin, fmax)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def spectrogram_grid(path: Path, columns: list[np.ndarray], labels: list[str], titles: Sequence[str] = ()) -> None:
    """Write a PNG that compares clips: a row for each clip with its label above, a titled column for each source.

    Args:
        columns: (clips, bands, frames) arrays of ln mel magnitudes, such as real and generated clips.
    """
    bands, frames = columns[0].shape[1:]
    width, height, top = frames * 2 + 8, bands * 2 + 18, 16 if titles else 0  # of a cell, and of the titles
    picture = Image.new("RGB", (width * len(columns), top + height * len(labels)), "white")
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(titles):
        draw.text((4 + column * width, 3), title[: frames // 3], fill=_INK)
    for row, label in enumerate(labels):
        draw.text((4, top + row * height + 3), label[: picture.width // 6], fill=_INK)
        for column, mels in enumerate(columns):
            plot = Image.fromarray(colours(mels[row])[::-1]).resize((frames * 2, bands * 2), Image.NEAREST)
            picture.paste(plot, (4 + column * width, top + row * height + 16))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def colours(log_mel: np.ndarray, dynamic_range: float = 9.0) -> np.ndarray:
    """Colour ln magnitudes (bands, frames) -> uint8 (bands, frames, 3), from dark to the brightness of the maximum.

    `dynamic_range` in nepers below the maximum is dark; 9 nepers are 78 dB. Pure silence stays dark.
    """
    top = max(float(log_mel.max()), dynamic_range - 11.5)  # silence is ln(1e-5) = -11.5
    level = np.clip((log_mel - top) / dynamic_range + 1.0, 0.0, 1.0)
    steps = np.linspace(0.0, 1.0, len(_ANCHORS))
    return np.stack([np.interp(level, steps, channel) for channel in _ANCHORS.T], axis=-1).round().astype(np.uint8)


def _slaney(hertz: float) -> float:
    """Convert Hz to mel: linear below 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998)."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _time_axis(draw: ImageDraw.ImageDraw, size: tuple[int, int], seconds: float) -> None:
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60) if seconds / s <= 8), seconds / 4)
    for tick in np.arange(0, seconds + 1e-6, step):
        x = _LEFT + round(tick / seconds * size[0])
        draw.line([(x, _TOP + size[1]), (x, _TOP + size[1] + 4)], fill=_INK)
        draw.text((x, _TOP + size[1] + 6), f"{tick:.3g}", fill=_INK, anchor="ma")
    draw.text((4, _TOP + size[1] + 6), "Hz / s", fill=_INK)


def _frequency_axis(draw: ImageDraw.ImageDraw, size: tuple[int, int], fmin: float, fmax: float) -> None:
    low, high = _slaney(fmin), _slaney(fmax)
    for tick in (hertz for hertz in _TICKS_HZ if fmin <= hertz <= fmax):
        y = _TOP + size[1] - round((_slaney(tick) - low) / (high - low) * size[1])
        draw.line([(_LEFT - 4, y), (_LEFT, y)], fill=_INK)
        draw.text((_LEFT - 6, y), f"{tick}", fill=_INK, anchor="rm")
