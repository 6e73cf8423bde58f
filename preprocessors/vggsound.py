"""VGGSound (Chen et al. 2020, github.com/hche11/VGGSound) in the folder layout of AudioToken's official code.

A folder with video/{youtube_id}_{start}_{end}.mp4, optionally wavs of the same names in audio/, and vggsound.csv (id,
start second, label, set, or a header with ytid, class, set). Next to it or in constants/ may lie best_frames.json and
the lists of videos to leave out, unmatch_videos and low_quality_videos, as .txt (one id a line) or .pkl.
"""

import csv
import re
from pathlib import Path

from sonolume.config.audio_to_image import PairsConfig
from sonolume.preprocessors.prepared import LeftOut
from sonolume.utils import pickles
from sonolume.utils.errors import UserError
from sonolume.utils.files import is_video, read_json, read_text, sounds_in
from sonolume.utils.manifest import Row

TABLE = "vggsound.csv"
CONSTANTS = "constants"  # folder of the lists in the official repository
ID_LENGTH = 11  # characters of a YouTube id
SPLITS = {"train": None, "test": "test"}  # the train videos are divided into train and valid
COLUMNS = {"id": 0, "label": 2, "split": 3}  # of the published table, which has no header
HEADERS = {"id": ("ytid", "youtube_id", "video"), "label": ("class", "label"), "split": ("set", "split")}


def table_of(source: Path) -> Path | None:
    """Find the table: `source` itself, or in it, or one or two folders below."""
    if source.is_file():
        return source if source.name == TABLE else None
    return next((path for depth in ("", "*/", "*/*/") for path in sorted(source.glob(depth + TABLE))), None)


def read(
    source: Path, dataset: str, config: PairsConfig, media_dir: Path | None = None
) -> tuple[list[Row], list[LeftOut], dict[str, list[int]]]:
    """Read one row per file of the table; its Uid is the file's stem, its label the first of its video.

    Args:
        media_dir: the folder that holds video/ and audio/ (default: `source`, or the table's).

    Returns:
        Rows with files, rows that the lists leave out, and numbers of the best frames by Uid.
    """
    table = table_of(source) or source / TABLE
    labels = _read_table(table)
    folder = media_dir or (source if source.is_dir() else table.parent)
    lists = {"unmatch_videos": config.filter_unmatch_videos, "low_quality_videos": config.filter_low_quality_imgs}
    listed = {video: name for name, wanted in lists.items() if wanted for video in _read_ids(table, folder, name)}
    rows, left_out = [], []
    sounds, videos = ({path.stem: path for path in reversed(sounds_in(folder)) if is_video(path) == kind}
                      for kind in (False, True))  # fmt: skip
    for uid in sorted(sounds.keys() | videos.keys()):
        label, split = labels.get(uid[:ID_LENGTH], ("", ""))
        if label and split == "train" and uid[:ID_LENGTH] in listed:
            left_out.append(LeftOut(uid, f"listed in {listed[uid[:ID_LENGTH]]}"))
        elif label:
            audio, video = sounds.get(uid), videos.get(uid)
            rows.append(Row(dataset, uid, audio or video, video=video, label=label, split=SPLITS[split]))
    if not rows and not left_out:
        raise UserError(f"{folder}: holds no file of the {len(labels):,} videos of {table}: expected "
                        "video/{youtube_id}_{start}_{end}.mp4")  # fmt: skip
    return rows, left_out, _read_best_frames(table, folder) if config.filter_frames else {}


def _read_table(path: Path) -> dict[str, tuple[str, str]]:
    """Read (label, set) by YouTube id; the first row of a video counts."""
    try:
        rows = list(csv.reader(read_text(path).split("\n"), strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: not a readable csv ({error})") from error
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    header = {key: names.index(name) for key, known in HEADERS.items() for name in reversed(known) if name in names}
    columns, first = (header, 1) if len(header) == len(HEADERS) else (COLUMNS, 0)
    found: dict[str, tuple[str, str]] = {}
    for number, cells in enumerate(rows[first:], first + 1):
        if not cells:
            continue
        if len(cells) <= max(columns.values()):
            raise UserError(f"{path}:{number}: {len(cells)} cells, expected at least {max(columns.values()) + 1}")
        video, label, split = (cells[columns[name]].strip() for name in ("id", "label", "split"))
        if not re.fullmatch(r"[\w-]{11}", video):
            raise UserError(f"{path}:{number}: {video!r} is no YouTube id (11 characters)")
        if split.lower() not in SPLITS:
            raise UserError(f"{path}:{number}: the set is {split!r}, expected train or test")
        found.setdefault(video, (label, split.lower()))
    if not found:
        raise UserError(f"{path}: holds no rows")
    return found


def _find(table: Path, folder: Path, *names: str) -> Path | None:
    places = dict.fromkeys((table.parent, folder, table.parent / CONSTANTS, folder / CONSTANTS))
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _read_ids(table: Path, folder: Path, name: str) -> set[str]:
    path = _find(table, folder, f"{name}.txt", f"{name}.pkl")
    if path is None:
        return set()
    is_text = path.suffix == ".txt"
    ids = path.read_text(encoding="utf-8", errors="replace").split() if is_text else pickles.read_plain(path)
    if not isinstance(ids, list | tuple | set | frozenset) or not all(isinstance(entry, str) for entry in ids):
        raise UserError(f"{path}: expected a list of YouTube ids")
    return {entry[:ID_LENGTH] for entry in ids}


def _read_best_frames(table: Path, folder: Path) -> dict[str, list[int]]:
    """Read frame numbers by Uid; the official file has them as the first entry of a list, and many empty ones."""
    path = _find(table, folder, "best_frames.json")
    found = {}
    for uid, entry in (read_json(path, "an object of file name -> [frame numbers]") if path else {}).items():
        first = entry[0] if isinstance(entry, list) and entry else []
        numbers = first if isinstance(first, list) else entry
        found[uid] = [number for number in numbers if isinstance(number, int) and number >= 0]
    return {uid: numbers for uid, numbers in found.items() if numbers}
