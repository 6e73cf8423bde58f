"""Sheets of a report: generated samples next to the reference, the first ones and the worst, and round trips."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import Files, Samples, read_sound
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.errors import UserError
from sonolume.utils.files import AUDIO_SUFFIXES
from sonolume.utils.image import CELL, colours, open_image, picture_grid, spectrogram_grid

ROWS = 8  # of a sheet
MAX_SECONDS = 10.0  # of a spectrogram

Cell = np.ndarray | Image.Image | None  # a wave (n,), a picture, or nothing


def sample_sheets(folder: Path, report: Report, samples: Samples) -> list[str]:
    """Write samples.png and worst.png, reference next to generated, and return the names of those with any rows."""
    paired = [uid for uid in samples.generated if uid in samples.reference]
    labels = {uid: _label(uid, samples) for uid in (paired or list(samples.generated))[:ROWS]}
    names = [name for name, _, _ in report.outliers]
    ranked = sorted(range(len(names)), key=lambda index: names[:index].count(names[index]))  # the worst of each score
    worst: dict[str, str] = {}
    for name, uid, value in (report.outliers[index] for index in ranked):
        if uid in samples.generated and len(worst) < ROWS:
            worst.setdefault(uid, f"{name} {value:.3g}: {_label(uid, samples)}")
    sheets = {"samples.png": labels, "worst.png": worst if len(samples.generated) > 1 else {}}
    stations = {"reference": samples.reference, "generated": samples.generated}
    return [name for name, labels in sheets.items() if _sheet(folder / name, stations, labels, "generated")]


def _label(uid: str, samples: Samples) -> str:
    text = samples.captions.get(uid) or samples.labels.get(uid)
    return f"{uid}: {text}" if text else uid


def trip_sheets(
    folder: Path, stations: Mapping[str, Files], labels: Mapping[str, str], lost: Sequence[str]
) -> list[str]:
    """Write samples.png with the first round trips and worst.png with the Uids in `lost`; return the names."""
    sheets = {"samples.png": list(labels), "worst.png": [uid for uid in dict.fromkeys(lost) if uid in labels]}
    for name, uids in sheets.items():
        if not _sheet(folder / name, stations, {uid: labels[uid] for uid in uids[:ROWS]}):
            (folder / name).unlink(missing_ok=True)  # of an earlier run
    return [name for name, uids in sheets.items() if uids]


def _sheet(path: Path, stations: Mapping[str, Files], labels: Mapping[str, str], required: str = "") -> bool:
    """Write a row per Uid that has a file of the `required` station, a column per station; return False for no row."""
    columns = {title: {uid: _read(files.get(uid)) for uid in labels}
               for title, files in stations.items() if any(uid in files for uid in labels)}  # fmt: skip
    uids = [uid for uid in labels if not required or columns.get(required, {}).get(uid) is not None]
    if not uids:
        return False
    cells: list[list[Cell]] = [[column[uid] for uid in uids] for column in columns.values()]
    titles, texts = list(columns), [labels[uid] for uid in uids]
    longest = max(len(cell) if isinstance(cell, np.ndarray) else 0 for column in cells for cell in column)
    are_sounds = all(_is_sound(path) for files in stations.values() for path in files.values())
    if not are_sounds or not longest:
        picture_grid(path, [[_picture(cell, longest) for cell in column] for column in cells], titles, texts)
    else:
        mels = [np.stack([_mel(cell, longest) for cell in column]) for column in cells]
        spectrogram_grid(path, mels, texts, titles)
    return True


def _is_sound(path: Path) -> bool:
    return path.suffix.lower() in AUDIO_SUFFIXES


def _read(path: Path | None) -> Cell:
    """Read a sound or a picture; None for a file that is missing or unreadable, which is reported elsewhere."""
    try:
        if path is not None and _is_sound(path):
            rate = MelSettings().sample_rate
            return read_sound(path, rate)[0][: round(MAX_SECONDS * rate)]
        return path and open_image(path)
    except UserError:
        return None


def _picture(cell: Cell, longest: int) -> Image.Image:
    if isinstance(cell, np.ndarray):
        pixels = np.ascontiguousarray(colours(_mel(cell, longest))[::-1])  # row 0 is the top
        return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)
    return cell or Image.new("RGB", (1, 1), "white")


def _mel(cell: Cell, longest: int) -> np.ndarray:
    """Compute the log-mel (M, T) of a wave, or of silence, padded to `longest` samples."""
    wave = cell if isinstance(cell, np.ndarray) else np.zeros(0, np.float32)
    padded = torch.from_numpy(np.pad(wave, (0, longest - len(wave))))
    return MelSpectrogram(MelSettings())(padded[None])[0].numpy()
