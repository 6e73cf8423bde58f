"""Round trips through two recipes, such as text -> sound -> picture: how much of the start is left, and where it went.

This module knows no recipe. A recipe makes the files of every station (`generation.generate`) and compares the end with
the start as it compares anything; here the legs between are scored, and all stations are shown side by side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sonolume.models.evaluation.embedders import clips
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import embed_pictures, embed_sounds, open_picture
from sonolume.models.evaluation.results import Result
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.metrics.interval import Share
from sonolume.utils.errors import UserError
from sonolume.utils.image import CELL, picture_grid
from sonolume.utils.manifest import AUDIO_SUFFIXES
from sonolume.utils.spectrogram import colours

Files = Mapping[str, Path]  # of one station, by Uid

SHOWN = 8  # trips of a sheet
LONGEST = 10.0  # seconds of a spectrogram


def kinds(files: Files, embedder: Embedder, cache: Path | None, batch_size: int) -> dict[str, str]:
    """Uid -> the likeliest class of its sound or picture; nothing for files that cannot be used.

    Args:
        embedder: one that tells classes of this medium.
    """
    paths = list(files.values())
    if _are_sounds(files):
        found = embed_sounds(paths, embedder, cache, batch_size, keep_silent=True)
    else:
        found = embed_pictures(paths, embedder, cache, batch_size, keep_blank=True)
    if found.logits is None or not embedder.labels:
        raise ValueError(f"{embedder.name} tells no classes")
    told = dict(zip(found.kept, found.logits.argmax(dim=1).tolist(), strict=True))
    return {uid: embedder.labels[told[path]] for uid, path in files.items() if path in told}


def add_legs(
    result: Result,
    labels: Mapping[str, str],
    stations: Mapping[str, Files],
    beside: Mapping[str, Mapping[str, Files]],
    embedder: Embedder,
    cache: Path | None,
    batch_size: int,
) -> list[str]:
    """Add to `result` how often the kind is kept from each station to the next, and return the Uids that lost it.

    Args:
        labels: the kind that each trip starts with; others have no part.
        stations: title -> files; the first title is the start's, whose files may be none: its kinds are `labels`.
        beside: column -> stations of other trips from the same starts, such as from real sounds.
        embedder: tells classes of all these media, as `mini:world` does.
    """
    start = next(iter(stations))

    def seen(trip: Mapping[str, Files]) -> dict[str, Mapping[str, str]]:
        known = {title: kinds(files, embedder, cache, batch_size) for title, files in trip.items() if title != start}
        return {start: labels, **known}

    ours, others = seen(stations), {column: seen(trip) for column, trip in beside.items()}
    titles = list(stations)
    for first, second in zip(titles, titles[1:], strict=False):
        columns = {name: _kept(labels, trip[first], trip[second]) for name, trip in others.items()
                   if first in trip and second in trip}  # fmt: skip
        share = _kept(labels, ours[first], ours[second])
        note = f"told by {embedder.name.partition('@')[0]}"
        result.add_share(f"kind kept, {first} to {second}", share, 1 / len(embedder.labels), columns, note=note)
    return [uid for uid, kind in labels.items() if ours[titles[-1]].get(uid) != kind]


def _kept(labels: Mapping[str, str], first: Mapping[str, str], second: Mapping[str, str]) -> Share:
    """What is missing at the end counts as lost."""
    asked = [uid for uid in labels if uid in first]
    return Share(sum(first[uid] == second.get(uid) for uid in asked), len(asked))


def sheet(path: Path, stations: Mapping[str, Files], labels: Mapping[str, str]) -> None:
    """Write a PNG: one row for each Uid of `labels`, under its label; one column a station, sounds as spectrograms."""
    columns = [[_cell(files.get(uid)) for uid in labels] for files in stations.values()]
    picture_grid(path, columns, list(stations), list(labels.values()))


def sheets(folder: Path, stations: Mapping[str, Files], labels: Mapping[str, str], lost: Sequence[str]) -> list[str]:
    """samples.png of the first trips, worst.png of those in `lost` (if any); returns their names."""
    chosen = {"samples.png": list(labels), "worst.png": [uid for uid in dict.fromkeys(lost) if uid in labels]}
    for name, uids in chosen.items():
        if uids:
            sheet(folder / name, stations, {uid: labels[uid] for uid in uids[:SHOWN]})
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier run
    return [name for name, uids in chosen.items() if uids]


def _are_sounds(files: Files) -> bool:
    return next(iter(files.values())).suffix.lower() in AUDIO_SUFFIXES


def _cell(path: Path | None) -> Image.Image:
    """White for what is missing or cannot be opened, which is listed elsewhere."""
    blank = Image.new("RGB", (1, 1), "white")
    try:
        if path is None:
            return blank
        return _spectrogram(path) if path.suffix.lower() in AUDIO_SUFFIXES else open_picture(path)[0]
    except UserError:
        return blank


def _spectrogram(path: Path) -> Image.Image:
    settings = MelSettings()
    wave = clips.read(path, settings.sample_rate)[0][: round(LONGEST * settings.sample_rate)]
    mel = MelSpectrogram(settings)(torch.from_numpy(wave)[None])[0].numpy()              # (M, T)
    pixels = np.ascontiguousarray(colours(mel)[::-1])                                    # row 0 is the top
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)
