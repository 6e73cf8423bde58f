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
from sonolume.utils.image import CELL, open_image, picture_grid, plot_mel, spectrogram_grid

ROWS = 8  # of a sheet
MAX_SECONDS = 10.0  # of a spectrogram


def sample_sheets(folder: Path, report: Report, samples: Samples) -> list[str]:
    """Write samples.png and worst.png, reference next to generated, and return the names of those with any rows."""

    def label(uid: str) -> str:
        text = samples.captions.get(uid) or samples.labels.get(uid)
        return f"{uid}: {text}" if text else uid

    paired = [uid for uid in samples.generated if uid in samples.reference]
    labels = {uid: label(uid) for uid in (paired or list(samples.generated))[:ROWS]}
    names = [name for name, _, _ in report.outliers]
    ranked = sorted(range(len(names)), key=lambda index: names[:index].count(names[index]))  # the worst of each score
    worst: dict[str, str] = {}
    for name, uid, value in (report.outliers[index] for index in ranked):
        if uid in samples.generated and len(worst) < ROWS:
            worst.setdefault(uid, f"{name} {value:.3g}: {label(uid)}")
    sheets = {"samples.png": labels, "worst.png": worst if len(samples.generated) > 1 else {}}
    stations = {"reference": samples.reference, "generated": samples.generated}
    return [name for name, labels in sheets.items() if _sheet(folder / name, stations, labels, "generated")]


def trip_sheets(
    folder: Path, stations: Mapping[str, Files], labels: Mapping[str, str], lost: Sequence[str]
) -> list[str]:
    """Write samples.png with the first round trips and worst.png with the Uids in `lost`; return the names."""
    sheets = {"samples.png": list(labels), "worst.png": [uid for uid in dict.fromkeys(lost) if uid in labels]}
    for name in sheets:
        (folder / name).unlink(missing_ok=True)  # of an earlier run
    return [name for name, uids in sheets.items()
            if _sheet(folder / name, stations, {uid: labels[uid] for uid in uids[:ROWS]})]  # fmt: skip


def _sheet(path: Path, stations: Mapping[str, Files], labels: Mapping[str, str], required: str = "") -> bool:
    """Write a row per Uid that has a file of the `required` station, a column per station; return False for no row."""
    columns = {title: {uid: _read(files.get(uid)) for uid in labels}
               for title, files in stations.items() if any(uid in files for uid in labels)}  # fmt: skip
    uids = [uid for uid in labels if not required or columns.get(required, {}).get(uid) is not None]
    if not uids:
        return False
    titles, texts = list(columns), [labels[uid] for uid in uids]
    cells = [[column[uid] for uid in uids] for column in columns.values()]
    longest = max(len(cell) if isinstance(cell, np.ndarray) else 0 for column in cells for cell in column)
    mel = MelSpectrogram(MelSettings())

    def log_mel(wave: np.ndarray) -> np.ndarray:  # (n,) -> (M, T), padded to the longest
        return mel(torch.from_numpy(np.pad(wave, (0, longest - len(wave))))[None])[0].numpy()

    def picture(cell: np.ndarray | Image.Image | None) -> Image.Image:
        if isinstance(cell, np.ndarray):
            return plot_mel(log_mel(cell)).resize((CELL, CELL), Image.Resampling.NEAREST)
        return cell or Image.new("RGB", (1, 1), "white")

    if longest and all(path.suffix.lower() in AUDIO_SUFFIXES for files in stations.values() for path in files.values()):
        silence = np.zeros(0, np.float32)
        waves = [[cell if isinstance(cell, np.ndarray) else silence for cell in column] for column in cells]
        spectrogram_grid(path, [np.stack([log_mel(wave) for wave in column]) for column in waves], texts, titles)
    else:
        picture_grid(path, [[picture(cell) for cell in column] for column in cells], titles, texts)
    return True


def _read(path: Path | None) -> np.ndarray | Image.Image | None:
    """Read a wave (n,) or a picture; None for a file that is missing or unreadable, which is reported elsewhere."""
    try:
        if path is not None and path.suffix.lower() in AUDIO_SUFFIXES:
            rate = MelSettings().sample_rate
            return read_sound(path, rate)[0][: round(MAX_SECONDS * rate)]
        return path and open_image(path)
    except UserError:
        return None
