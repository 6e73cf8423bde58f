"""FSD50K (Fonseca et al. 2020, zenodo.org/records/4060432) as published: sounds with labels, titles and tags.

A folder with FSD50K.dev_audio/ and FSD50K.eval_audio/ ({Freesound id}.wav), FSD50K.ground_truth/ (dev.csv with the
columns fname, labels, mids, split, and eval.csv without split), and FSD50K.metadata/ (titles, descriptions and tags).
The labels of a clip begin with the most specific one, which its parents follow.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sonolume.config.sound_text import TextField
from sonolume.preprocessors.prepared import LeftOut
from sonolume.preprocessors.text_fields import Entry
from sonolume.utils import manifest
from sonolume.utils.errors import UserError
from sonolume.utils.files import read_json, sounds_in
from sonolume.utils.manifest import FOLDER_MANIFESTS, Row

GROUND_TRUTH, METADATA = "FSD50K.ground_truth", "FSD50K.metadata"  # folders
AUDIO = ("FSD50K.dev_audio", "FSD50K.eval_audio")  # folders
PARTS = (*AUDIO, GROUND_TRUTH, METADATA)
COLUMNS = {"dev.csv": ("fname", "labels", "split"), "eval.csv": ("fname", "labels")}
SPLITS = {"train": "train", "val": "valid"}  # of dev.csv; eval.csv is the test set
INFO = "{}_clips_info_FSD50K.json"  # in METADATA: {"{Freesound id}": {"title": ..., "description": ..., "tags": [...]}}
IN_METADATA = (TextField.title, TextField.description, TextField.tags)


def is_published(source: Path) -> bool:
    """Whether `source` is the data set, one of its four folders, or dev.csv or eval.csv."""
    if source.is_dir() and any((source / name).is_file() for name in FOLDER_MANIFESTS):
        return False
    return bool(tables(source)) or (source.is_dir() and any((_root(source) / name).is_dir() for name in PARTS))


def tables(source: Path) -> list[Path]:
    """Find dev.csv and eval.csv in the data set, at most two folders deep, or return `source` itself."""
    if source.is_file():
        return [source] if _is_table(source) else []
    for depth in ("", "*/", "*/*/"):
        found = [path for name in COLUMNS for path in sorted(_root(source).glob(depth + name)) if _is_table(path)]
        if found:
            return [path for path in found if path.parent == found[0].parent]
    return []


def read(
    source: Path, dataset: str, text_field: TextField, media_dir: Path | None = None
) -> tuple[list[Entry], list[LeftOut]]:
    """Read one row per clip of the tables, with the columns labels, title, description and tags.

    A missing clip keeps the path at which it was expected.

    Args:
        source: see `is_published`.
        text_field: whether the metadata are needed.
        media_dir: folder of the sounds, at any depth (default: the data set).

    Returns:
        Rows with their columns, and the sounds that no table names.
    """
    paths, root = tables(source), _root(source)
    if not paths:
        raise UserError(f"{source}: FSD50K without {GROUND_TRUTH}/dev.csv or eval.csv: unpack {GROUND_TRUTH}.zip there")
    if source.is_dir() and paths[0].parent.name == GROUND_TRUTH:  # perhaps one folder below
        root = paths[0].parent.parent
    folder = media_dir or root
    sounds = _sounds(folder, AUDIO if source.is_dir() else [f"FSD50K.{source.stem}_audio"])
    entries: list[Entry] = []
    for path in paths:
        clips = list(_clips(path))
        is_there = any(uid in sounds for uid, _, _ in clips)
        info = _read_info(root, path, text_field) if is_there and text_field in IN_METADATA else {}
        for uid, split, labels in clips:
            audio = sounds.get(uid, folder / f"FSD50K.{path.stem}_audio" / f"{uid}.wav")
            entries.append((Row(dataset, uid, audio, split=split), info.get(uid, {}) | {"labels": labels}))
    uids, names = {row.uid for row, _ in entries}, " and ".join(path.name for path in paths)
    if uids.isdisjoint(sounds):
        raise UserError(f"{folder}: holds none of the {len(uids):,} clips of {names}: expected {entries[0][0].uid}.wav "
                        f"among {len(sounds):,} sound files; name the right folder with --audio_dir")  # fmt: skip
    unknown = [LeftOut(uid, "no labels", f"not in {names}", str(path))
               for uid, path in sorted(sounds.items()) if uid not in uids]  # fmt: skip
    return entries, unknown


def _sounds(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """List sounds by their stems: those of the folders with these names, else all."""
    places = [folder / name for name in names if (folder / name).is_dir()] or [folder]
    return {path.stem: path for place in reversed(places) for path in reversed(sounds_in(place))}


def _root(source: Path) -> Path:
    """Return the folder of the data set: `source`, or the one that contains it."""
    folder = source if source.is_dir() else source.parent
    return folder.absolute().parent if folder.absolute().name in PARTS else folder


def _is_table(path: Path) -> bool:
    """Whether a file is dev.csv or eval.csv of FSD50K: by its folder, else by its header."""
    if path.name not in COLUMNS or not path.is_file():
        return False
    return path.absolute().parent.name == GROUND_TRUTH or manifest.header(path).issuperset(COLUMNS["eval.csv"])


def _clips(table: Path) -> Iterator[tuple[str, str, Any]]:
    """Read Freesound id, split and labels of every row."""
    for number, (where, cell) in enumerate(manifest.read_cells(table)):
        if not number:
            _check_header(table, cell)
        uid = (cell["fname"] or "").strip()
        if not uid:
            raise UserError(f"{where}: no fname")
        split = SPLITS.get((cell["split"] or "").strip()) if table.name == "dev.csv" else "test"
        if split is None:
            raise UserError(f"{where}: the split is {cell['split']!r:.60}, expected train or val")
        yield uid, split, cell["labels"]


def _check_header(table: Path, cell: dict[str, Any]) -> None:
    missing = [name for name in COLUMNS[table.name] if name not in cell]
    if missing:
        raise UserError(f"{table}:1: no column {missing[0]!r}: the first line must name the columns fname,labels,mids"
                        f"{',split' if table.name == 'dev.csv' else ''}")  # fmt: skip


def _read_info(root: Path, table: Path, text_field: TextField) -> dict[str, dict[str, Any]]:
    """Read title, description and tags by Freesound id."""
    name = INFO.format(table.stem)
    path = next((path for depth in ("", "*/") for path in sorted(root.glob(depth + name))), None)
    if path is None:
        raise UserError(f"{root}: preprocess.text_field={text_field} needs {METADATA}/{name}: unpack {METADATA}.zip "
                        "there, or choose text_field=labels")  # fmt: skip
    found = read_json(path, "an object of Freesound id -> {title, description, tags}")
    wrong = next((uid for uid, facts in found.items() if not isinstance(facts, dict)), None)
    if wrong is not None:
        raise UserError(f"{path}: the entry of {wrong!r:.60} is no object with title, description and tags")
    return found
