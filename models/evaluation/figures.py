"""Sheets of a report: generated samples next to the reference, the first ones and the worst, and round trips."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.samples import SOUND, Files, Samples
from sonolume.models.evaluation.sound_files import read_sound
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.errors import UserError
from sonolume.utils.image import CELL, open_image, picture_grid
from sonolume.utils.manifest import AUDIO_SUFFIXES
from sonolume.utils.spectrogram import colours, spectrogram_grid

ROWS = 8  # of a sheet
MAX_SECONDS = 10.0  # of a spectrogram


def sample_sheets(folder: Path, report: Report, samples: Samples) -> list[str]:
    """Write samples.png and worst.png, reference next to generated, and return the names of those with any rows."""
    paired = [uid for uid in samples.generated if uid in samples.reference]
    first = {uid: _label(uid, samples) for uid in (paired or list(samples.generated))[:ROWS]}
    names = [name for name, _, _ in report.outliers]
    ranked = sorted(range(len(names)), key=lambda index: names[:index].count(names[index]))  # the worst of each score
    worst: dict[str, str] = {}
    for name, uid, value in (report.outliers[index] for index in ranked):
        if uid in samples.generated and len(worst) < ROWS:
            worst.setdefault(uid, f"{name} {value:.3g}: {_label(uid, samples)}")
    sheets = {"samples.png": first, "worst.png": worst if len(samples.generated) > 1 else {}}
    return [name for name, labels in sheets.items() if _sample_sheet(folder / name, labels, samples)]


def _label(uid: str, samples: Samples) -> str:
    text = samples.captions.get(uid) or samples.labels.get(uid)
    return f"{uid}: {text}" if text else uid


def _sample_sheet(path: Path, labels: Mapping[str, str], samples: Samples) -> bool:
    """Write one row for each Uid whose generated file can be opened; return False if there is none."""
    columns = {"reference": samples.reference, "generated": samples.generated}
    columns = {title: files for title, files in columns.items() if any(uid in files for uid in labels)}
    is_sound, rate = samples.medium is SOUND, MelSettings().sample_rate

    def read(uid: str, files: Files) -> np.ndarray | Image.Image | None:
        try:
            return None if uid not in files else _wave(files[uid], rate) if is_sound else open_image(files[uid])
        except UserError:  # listed as left out
            return None

    found = {title: {uid: read(uid, files) for uid in labels} for title, files in columns.items()}
    uids = [uid for uid in labels if found["generated"][uid] is not None]
    if not uids:
        return False
    rows, texts = [[cells[uid] for uid in uids] for cells in found.values()], [labels[uid] for uid in uids]
    if is_sound:
        longest = max(len(wave) for column in rows for wave in column if wave is not None)  # type: ignore[arg-type]
        waves = [[np.zeros(0, np.float32) if wave is None else wave for wave in column] for column in rows]
        padded = [np.stack([np.pad(wave, (0, longest - len(wave))) for wave in column]) for column in waves]  # type: ignore[arg-type]
        mel = MelSpectrogram(MelSettings())
        spectrogram_grid(path, [mel(torch.from_numpy(column)).numpy() for column in padded], texts, list(found))
    else:
        blank = Image.new("RGB", (1, 1), "white")
        picture_grid(path, [[cell or blank for cell in column] for column in rows], list(found), texts)  # type: ignore[misc]
    return True


def _wave(path: Path, rate: int) -> np.ndarray:
    return read_sound(path, rate)[0][: round(MAX_SECONDS * rate)]


def trip_sheets(
    folder: Path, stations: Mapping[str, Files], labels: Mapping[str, str], lost: Sequence[str]
) -> list[str]:
    """Write samples.png with the first round trips and worst.png with the Uids in `lost`; return the names.

    One row for each Uid of `labels`, one column for each station; sounds are drawn as spectrograms.
    """
    chosen = {"samples.png": list(labels), "worst.png": [uid for uid in dict.fromkeys(lost) if uid in labels]}
    for name, uids in chosen.items():
        uids = uids[:ROWS]
        if uids:
            columns = [[_cell(files.get(uid)) for uid in uids] for files in stations.values()]
            picture_grid(folder / name, columns, list(stations), [labels[uid] for uid in uids])
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier run
    return [name for name, uids in chosen.items() if uids]


def _cell(path: Path | None) -> Image.Image:
    """Draw a picture or a spectrogram; white for a file that is missing or unreadable, which is reported elsewhere."""
    try:
        if path is not None:
            return _spectrogram(path) if path.suffix.lower() in AUDIO_SUFFIXES else open_image(path)
    except UserError:
        pass
    return Image.new("RGB", (1, 1), "white")


def _spectrogram(path: Path) -> Image.Image:
    settings = MelSettings()
    mel = MelSpectrogram(settings)(torch.from_numpy(_wave(path, settings.sample_rate))[None])[0].numpy()  # (M, T)
    pixels = np.ascontiguousarray(colours(mel)[::-1])  # row 0 is the top
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)
