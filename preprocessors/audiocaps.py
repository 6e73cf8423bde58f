"""AudioCaps (Kim et al. 2019, github.com/cdjkim/audiocaps) as it is published: tables of captions without the sounds.

train.csv, val.csv and test.csv hold audiocap_id, youtube_id, start_time, caption; the sounds are fetched by everybody
with a tool of their own choice, some are gone, and each tool names them differently.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sonolume.utils.errors import UserError
from sonolume.utils.manifest import FOLDER_MANIFESTS, Cell, Row, captions_in, read_cells, sounds_in

COLUMNS = ("youtube_id", "start_time", "caption")
CLIP_SECONDS = 10
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}
FIRST_SPLIT = ("test", "valid", None, "train")  # of a clip that is in two tables, the held-out row is the first
NAMES = "{youtube_id}_{start}, {youtube_id}_{start}_{end} (also in milliseconds), {youtube_id}, each also after a Y, "
NAMES += "and {audiocap_id}"


@dataclass
class _Clip:
    youtube_id: str
    start: float
    ids: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """What its file may be called, without the suffix; the first is its Uid."""
        start, end = self.start, self.start + CLIP_SECONDS
        times = ("", f"_{start:g}", f"_{start:g}_{end:g}", f"_{start * 1000:.0f}_{end * 1000:.0f}", f"_{start:.3f}")
        plain = [f"{self.youtube_id}{time}" for time in (times[1], times[0], *times[2:])]
        return [*plain, *(f"Y{name}" for name in plain), *self.ids]


def tables(source: Path) -> list[Path]:
    """The csv files of AudioCaps that `source` is, or that lie in it or one folder below; known by their columns.

    A folder with a manifest of our own (`FOLDER_MANIFESTS`) is none.
    """
    if source.is_file():
        return [source] if _is_table(source) else []
    if any((source / name).is_file() for name in FOLDER_MANIFESTS):
        return []
    return sorted(path for pattern in ("*.csv", "*/*.csv") for path in source.glob(pattern) if _is_table(path))


def read(source: Path, dataset: str, audio_dir: Path | None = None) -> list[Row]:
    """One row per clip, with all its captions; Uid is {youtube_id}_{start}. A clip that is not there keeps the path
    where it was first looked for.

    Args:
        source: one of the tables, or a folder of them.
        audio_dir: the folder of the sounds, at any depth; by default that of `source`.

    Raises:
        UserError: a table cannot be read, or not one of its clips is there.
    """
    paths = tables(source)
    folder = audio_dir or (source if source.is_dir() else source.parent)
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sounds_in(folder):
        files[file.stem].append(file)
    splits = {path: split_of(path) for path in paths}
    if len(paths) == 1 and splits[paths[0]] == "train":  # nothing to validate on but a part of it
        splits[paths[0]] = None
    rows, found = [], 0
    for path in sorted(paths, key=lambda path: FIRST_SPLIT.index(splits[path])):
        for clip in _clips(read_cells(path)):
            there = _choose(files, clip.names(), _last_word(path))
            found += there is not None
            audio = there or folder / f"{clip.names()[0]}.wav"
            rows.append(Row(dataset, clip.names()[0], audio, clip.captions, split=splits[path]))
    if not found:
        raise UserError(
            f"{folder}: holds none of the {len(rows):,} clips of {', '.join(path.name for path in paths)}: looked for "
            f"{NAMES}, such as {rows[0].uid}.wav, among {sum(map(len, files.values())):,} sound files; name the right "
            "folder with --audio_dir"
        )
    return rows


def split_of(path: Path) -> str | None:
    """ "train", "valid" or "test" by the last word of a table's name, as in audiocaps_val.csv."""
    return SPLITS.get(_last_word(path))


def _last_word(path: Path) -> str:
    return re.split(r"[\W_]+", path.stem.lower())[-1]


def _is_table(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        columns = {name.strip(' "\r\n').lower() for name in file.readline(1000).split(",")}
    return columns.issuperset(COLUMNS)


def _clips(cells: Iterable[Cell]) -> list[_Clip]:
    """Rows of one clip put together; a validation or test clip has five."""
    clips: dict[tuple[str, float], _Clip] = {}
    for where, cell in cells:
        youtube_id = (cell.get("youtube_id") or "").strip()
        if not youtube_id:
            raise UserError(f"{where}: no youtube_id")
        try:
            start = float(cell.get("start_time") or "")
        except ValueError as error:
            raise UserError(f"{where}: start_time is {cell.get('start_time')!r}, expected seconds") from error
        clip = clips.setdefault((youtube_id, start), _Clip(youtube_id, start))
        clip.ids += [text for text in [(cell.get("audiocap_id") or "").strip()] if text]
        clip.captions += [text for text in captions_in(where, cell) if text not in clip.captions]
    return list(clips.values())


def _choose(files: dict[str, list[Path]], names: list[str], split: str) -> Path | None:
    """The file of the first name that is there; of several, one in a folder called like the split."""
    for name in names:
        if name in files:
            return min(files[name], key=lambda path: split not in path.parts)
    return None
