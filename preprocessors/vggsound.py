"""VGGSound (Chen et al. 2020, github.com/hche11/VGGSound) as AudioToken's official code expects it on the disk.

A folder with video/{youtube_id}_{start}_{end}.mp4, optionally audio/ with wavs of the same names, and vggsound.csv:
with a header that names at least ytid, class and set, or as published without one: id, start second, label, set.
Beside the table or in constants/ may lie best_frames.json and the lists of videos to leave out, unmatch_videos and
low_quality_videos, as .txt (one id a line) or .pkl.
"""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonolume.config.pairs import PairsConfig
from sonolume.preprocessors.refusals import Refusal
from sonolume.utils import pickles
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, is_video, sounds_in

TABLE = "vggsound.csv"
CONSTANTS = "constants"  # folder of the lists in the official repository
ID_LENGTH = 11  # characters of a YouTube id
SPLITS = {"train": None, "test": "test"}  # a part of train becomes valid
HEADERS = {"id": ("ytid", "youtube_id", "video"), "label": ("class", "label"), "split": ("set", "split")}
_ID = re.compile(r"[\w-]{11}")


@dataclass
class VGGSound:
    """The rows that have files, those left out, and the best frames (numbers) of each file name."""

    rows: list[Row] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    best_frames: dict[str, list[int]] = field(default_factory=dict)


def table_of(source: Path) -> Path | None:
    """The table of `source`, which is that file or a folder that holds it (or one or two below); None if it is none."""
    if source.is_file():
        return source if source.name == TABLE else None
    return next((path for depth in ("", "*/", "*/*/") for path in sorted(source.glob(depth + TABLE))), None)


def read(source: Path, dataset: str, config: PairsConfig, media_dir: Path | None = None) -> VGGSound:
    """One row per file that the table knows; Uid is its name without suffix, the label the first of its video.

    Args:
        source: the folder or the table.
        media_dir: the folder that holds video/ and audio/, if not the table's or `source`.

    Raises:
        UserError: a table, list or best_frames.json that cannot be read, or not one file of the table is there.
    """
    table = table_of(source)
    if table is None:
        raise UserError(f"{source}: no {TABLE} in it")
    known = _table(table)
    folder = media_dir or (source if source.is_dir() else table.parent)
    left_out = {}
    for name, wanted in (("unmatch_videos", config.filter_unmatch_videos),
                         ("low_quality_videos", config.filter_low_quality_imgs)):  # fmt: skip
        left_out |= dict.fromkeys(_ids(table, folder, name) if wanted else (), name)
    found = VGGSound(best_frames=_best_frames(table, folder) if config.filter_frames else {})
    for uid, files in _files(folder).items():
        label, split = known.get(uid[:ID_LENGTH], ("", ""))
        if not label:
            continue
        if split == "train" and uid[:ID_LENGTH] in left_out:
            found.refusals.append(Refusal(uid, f"listed in {left_out[uid[:ID_LENGTH]]}"))
            continue
        found.rows.append(Row(dataset, uid, files.get("audio") or files.get("video"), [], video=files.get("video"),
                              label=label, split=SPLITS.get(split, split)))  # fmt: skip
    if not found.rows and not found.refusals:
        raise UserError(f"{folder}: holds no file of the {len(known):,} videos of {table}: expected "
                        "video/{youtube_id}_{start}_{end}.mp4")  # fmt: skip
    return found


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """YouTube id -> (label, set), the first of each."""
    found: dict[str, tuple[str, str]] = {}
    for number, cells, columns in _cells(path):
        if len(cells) <= max(columns.values()):
            raise UserError(f"{path}:{number}: {len(cells)} cells, expected at least {max(columns.values()) + 1}")
        video, label, split = (cells[columns[name]].strip() for name in ("id", "label", "split"))
        if not _ID.fullmatch(video):
            raise UserError(f"{path}:{number}: {video!r} is no YouTube id (11 characters)")
        if split.lower() not in SPLITS:
            raise UserError(f"{path}:{number}: the set is {split!r}, expected train or test")
        found.setdefault(video, (label, split.lower()))
    if not found:
        raise UserError(f"{path}: holds no rows")
    return found


def _cells(path: Path) -> Iterator[tuple[int, list[str], dict[str, int]]]:
    """Line number, cells, and in which column id, label and split stand."""
    columns = {"id": 0, "label": 2, "split": 3}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, cells in enumerate(csv.reader(file, strict=True), 1):
                names = [cell.strip().lower() for cell in cells]
                header = {key: next((names.index(name) for name in known if name in names), -1)
                          for key, known in HEADERS.items()}  # fmt: skip
                if number == 1 and min(header.values()) >= 0:
                    columns = header
                elif cells:
                    yield number, cells, columns
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable csv ({error})") from error


def _files(folder: Path) -> dict[str, dict[str, Path]]:
    """File name without suffix -> its video and its sound, each where it is there; sorted."""
    found: dict[str, dict[str, Path]] = {}
    for path in sounds_in(folder):
        found.setdefault(path.stem, {})["video" if is_video(path) else "audio"] = path
    return dict(sorted(found.items()))


def _beside(table: Path, folder: Path, *names: str) -> Path | None:
    places = dict.fromkeys((table.parent, folder, table.parent / CONSTANTS, folder / CONSTANTS))
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _ids(table: Path, folder: Path, name: str) -> set[str]:
    path = _beside(table, folder, f"{name}.txt", f"{name}.pkl")
    if path is None:
        return set()
    if path.suffix == ".txt":
        ids: Any = path.read_text(encoding="utf-8", errors="replace").split()
    else:
        ids = pickles.read_plain(path)
    if not isinstance(ids, (list, tuple, set, frozenset)) or not all(isinstance(entry, str) for entry in ids):
        raise UserError(f"{path}: expected a list of YouTube ids")
    return {entry[:ID_LENGTH] for entry in ids}


def _best_frames(table: Path, folder: Path) -> dict[str, list[int]]:
    """File name without suffix -> frame numbers; the official file keeps them as the first entry of a list."""
    path = _beside(table, folder, "best_frames.json")
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid json ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object of file name -> [frame numbers]")
    return {uid: numbers for uid, entry in content.items() if (numbers := _numbers(entry))}


def _numbers(entry: Any) -> list[int]:
    """[] where the entry is of no use, as many are in the official file."""
    first = entry[0] if isinstance(entry, list) and entry else []
    numbers = first if isinstance(first, list) else entry
    return [number for number in numbers if isinstance(number, int) and number >= 0]
