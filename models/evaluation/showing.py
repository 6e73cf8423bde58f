"""The pictures of a report: what was generated beside the real one, the first samples and the worst."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sonolume.models.evaluation.embedders import clips
from sonolume.models.evaluation.embedders.cache import open_picture
from sonolume.models.evaluation.pictures import Pictures
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.sounds import Sounds
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.errors import UserError
from sonolume.utils.image import picture_grid
from sonolume.utils.spectrogram import spectrogram_grid

SHOWN = 8  # samples of a sheet
LONGEST = 10.0  # seconds of a spectrogram
SIDES = ("reference", "generated")


def sheets(folder: Path, result: Result, files: Sounds | Pictures) -> list[str]:
    """Write samples.png and worst.png to `folder`; returns the names of those that could be made."""
    both = [uid for uid in files.generated if uid in files.reference]
    first = {uid: _title(uid, files) for uid in (both or list(files.generated))[:SHOWN]}
    ranked = sorted(enumerate(result.outliers), key=lambda item: _place(result, item[0]))
    worst: dict[str, str] = {}
    for _, (name, uid, value) in ranked:
        if uid in files.generated and len(worst) < SHOWN:
            worst.setdefault(uid, f"{name} {value:.3g}: {_title(uid, files)}")
    made = {"samples.png": first, "worst.png": worst if len(files.generated) > 1 else {}}
    return [name for name, labels in made.items() if _sheet(folder / name, labels, files)]


def _place(result: Result, index: int) -> int:
    """How many worse samples of the same score there are."""
    name = result.outliers[index][0]
    return sum(other == name for other, _, _ in result.outliers[:index])


def _title(uid: str, files: Sounds | Pictures) -> str:
    text = files.captions.get(uid) or files.labels.get(uid)
    return f"{uid}: {text}" if text else uid


def _sheet(path: Path, labels: Mapping[str, str], files: Sounds | Pictures) -> bool:
    """One row for each Uid whose generated file can be opened; False where there is none."""
    sides = [side for side in SIDES if any(uid in getattr(files, side) for uid in labels)]
    draw = _spectrograms if isinstance(files, Sounds) else _pictures
    return draw(path, {side: getattr(files, side) for side in sides}, labels)


def _spectrograms(path: Path, sides: Mapping[str, Mapping[str, Path]], labels: Mapping[str, str]) -> bool:
    settings = MelSettings()
    rate = settings.sample_rate
    waves = {side: {uid: _wave(files.get(uid), rate) for uid in labels} for side, files in sides.items()}
    uids = [uid for uid in labels if waves["generated"][uid] is not None]
    if not uids:
        return False
    longest = max(len(wave) for rows in waves.values() for wave in rows.values() if wave is not None)
    columns = [_mels([rows[uid] for uid in uids], longest, settings) for rows in waves.values()]
    spectrogram_grid(path, columns, [labels[uid] for uid in uids], list(waves))
    return True


def _wave(path: Path | None, rate: int) -> np.ndarray | None:
    try:
        return None if path is None else clips.read(path, rate)[0][: round(LONGEST * rate)]
    except UserError:  # listed among what is left out
        return None


def _mels(waves: Sequence[np.ndarray | None], longest: int, settings: MelSettings) -> np.ndarray:
    """(clips, bands, frames), with silence behind short sounds and for missing ones."""
    empty = np.zeros(0, np.float32)
    filled = [np.pad(wave, (0, longest - len(wave))) for wave in (empty if wave is None else wave for wave in waves)]
    return MelSpectrogram(settings)(torch.from_numpy(np.stack(filled))).numpy()


def _pictures(path: Path, sides: Mapping[str, Mapping[str, Path]], labels: Mapping[str, str]) -> bool:
    found = {side: {uid: _picture(files.get(uid)) for uid in labels} for side, files in sides.items()}
    uids = [uid for uid in labels if found["generated"][uid] is not None]
    if not uids:
        return False
    blank = Image.new("RGB", (1, 1), "white")
    columns = [[rows[uid] or blank for uid in uids] for rows in found.values()]
    picture_grid(path, columns, list(found), [labels[uid] for uid in uids])
    return True


def _picture(path: Path | None) -> Image.Image | None:
    try:
        return None if path is None else open_picture(path)[0]
    except UserError:
        return None
