"""AudioCaps (Kim et al. 2019, github.com/cdjkim/audiocaps) as published: tables of captions without the sounds.

train.csv, val.csv and test.csv have the columns audiocap_id, youtube_id, start_time, caption. Everybody downloads the
sounds with a tool of their own; some are no longer available, and each tool names the files differently.
"""

import re
from collections import defaultdict
from pathlib import Path

from sonolume.utils import manifest
from sonolume.utils.errors import UserError
from sonolume.utils.files import sounds_in
from sonolume.utils.manifest import FOLDER_MANIFESTS, Row

COLUMNS = ("youtube_id", "start_time", "caption")
CLIP_SECONDS = 10
SPLIT_ORDER = ("test", "valid", None, "train")  # a clip of two tables belongs to the first of these splits


def tables(source: Path) -> list[Path]:
    """Find the csv files with the columns of AudioCaps in a folder without a manifest, or `source` itself."""
    if source.is_file():
        return [source] if _is_table(source) else []
    if any((source / name).is_file() for name in FOLDER_MANIFESTS):
        return []
    return sorted(path for pattern in ("*.csv", "*/*.csv") for path in source.glob(pattern) if _is_table(path))


def read(source: Path, dataset: str, audio_dir: Path | None = None) -> list[Row]:
    """Read one row per clip, with all its captions and the Uid {youtube_id}_{start}.

    A missing clip keeps the first path at which it was expected.

    Args:
        source: one of the tables, or a folder of them.
        audio_dir: the folder of the sounds, at any depth (default: that of `source`).
    """
    paths = tables(source)
    folder = audio_dir or (source if source.is_dir() else source.parent)
    files: dict[str, list[Path]] = defaultdict(list)
    for file in sounds_in(folder):
        files[file.stem].append(file)
    splits = {path: split_of(path) for path in paths}
    if len(paths) == 1 and splits[paths[0]] == "train":  # its rows are divided into train and valid
        splits[paths[0]] = None
    rows, found = [], 0
    for path in sorted(paths, key=lambda path: SPLIT_ORDER.index(splits[path])):
        for names, captions in _clips(path):
            of_clip = next((files[name] for name in names if name in files), [])
            in_split = [file for file in of_clip if _last_word(path) in file.parts]
            audio = next(iter(in_split + of_clip), folder / f"{names[0]}.wav")
            found += bool(of_clip)
            rows.append(Row(dataset, names[0], audio, captions, split=splits[path]))
    if not found:
        raise UserError(
            f"{folder}: holds none of the {len(rows):,} clips of {', '.join(path.name for path in paths)}: expected "
            "{youtube_id}_{start}, {youtube_id}_{start}_{end} (also in milliseconds), {youtube_id}, each also after a "
            f"Y, and {{audiocap_id}}, such as {rows[0].uid}.wav, among {sum(map(len, files.values())):,} sound files; "
            "name the right folder with --audio_dir"
        )
    return rows


def split_of(path: Path) -> str | None:
    """Return the split in the last word of a table's name, as in audiocaps_val.csv, or None."""
    word = _last_word(path)
    split = manifest.SPLITS.get(word, word)
    return split if split in SPLIT_ORDER else None


def _last_word(path: Path) -> str:
    return re.split(r"[\W_]+", path.stem.lower())[-1]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and path.is_file() and manifest.header(path).issuperset(COLUMNS)


def _clips(table: Path) -> list[tuple[list[str], list[str]]]:
    """Merge the rows of each clip into (stems that its file may have, captions); the first stem is its Uid."""
    clips: dict[tuple[str, float], tuple[list[str], dict[str, None]]] = {}
    for where, cell in manifest.read_cells(table):
        youtube_id = (cell.get("youtube_id") or "").strip()
        if not youtube_id:
            raise UserError(f"{where}: no youtube_id")
        try:
            start = float(cell.get("start_time") or "")
        except ValueError as error:
            raise UserError(f"{where}: start_time is {cell.get('start_time')!r}, expected seconds") from error
        end = start + CLIP_SECONDS
        times = (f"_{start:g}", "", f"_{start:g}_{end:g}", f"_{start * 1000:.0f}_{end * 1000:.0f}", f"_{start:.3f}")
        stems = [f"{prefix}{youtube_id}{time}" for prefix in ("", "Y") for time in times]
        names, captions = clips.setdefault((youtube_id, start), (stems, {}))
        names += [text for text in [(cell.get("audiocap_id") or "").strip()] if text]
        captions.update(dict.fromkeys(manifest.captions_in(where, cell)))
    return [(names, list(captions)) for names, captions in clips.values()]
