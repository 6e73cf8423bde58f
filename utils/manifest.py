"""One typed manifest row for every task, read from csv, json, jsonl or a plain folder, written as train.json.

Free of torch and numpy, so that a wrong manifest is found before anything slow is imported.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError
from sonolume.utils.files import write_json

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aif", ".aiff", ".au", ".caf"})
COLUMNS = ("Dataset", "Uid", "Audio", "Caption", "Captions", "Image", "Video", "Label", "Split", "Duration", "Scene")
FOLDER_MANIFESTS = ("captions.csv", "metadata.json", "metadata.jsonl", "metadata.csv")
SPLITS = {"val": "valid", "validation": "valid", "dev": "valid", "training": "train", "testing": "test"}
_CAPTION = re.compile(r"captions?[ _]?\d*")  # Caption, Captions, caption_1 ... caption_5
_FILES = {"audio": "audio", "image": "image", "video": "video"}
_ALIASES = {"path": "audio", "file_name": "audio"}  # used where the row has no Audio

Cell = tuple[str, dict[str, Any]]  # where a row stands ("file:line"), and its lower-case columns


@dataclass
class Row:
    """One example. Paths are absolute, or relative to the working directory, once read."""

    dataset: str
    uid: str
    """unique within the dataset; may hold slashes"""
    audio: Path | None = None
    captions: list[str] = field(default_factory=list)
    """several wordings of the same sound; one is drawn per epoch"""
    image: Path | None = None
    video: Path | None = None
    label: str | None = None
    split: str | None = None
    """"train", "valid", "test" ..., None where the source does not say"""
    duration: float | None = None
    """seconds"""
    scene: dict[str, Any] | None = None
    """the miniature world's description of this example"""


def read_manifest(path: Path | str, dataset: str | None = None, require: Sequence[str] = ()) -> list[Row]:
    """Read rows from a csv, json or jsonl file, or from a folder.

    Column names are those of `COLUMNS` in any case; `Path` and `file_name` are read as Audio where there is none;
    unknown columns are ignored. A missing Uid is the audio path without its suffix. Relative paths start at the
    manifest's folder.
    A folder holds one of `FOLDER_MANIFESTS`, or sound files with captions in a text file of the same name, one a line.

    Args:
        dataset: overrides the rows' Dataset; the default is theirs, else the folder's name.
        require: columns that at least one row must have, such as ("Audio",).

    Raises:
        UserError: names the file, the line or row, and what is wrong with it.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in FOLDER_MANIFESTS if (path / name).is_file()), None)
        if found is None:
            return _read_folder(path, dataset)
        path = found
    if not path.is_file():
        raise UserError(f"{path}: no such manifest or folder")
    cells = list(_read_cells(path))
    if not cells:
        raise UserError(f"{path}: holds no rows")
    _check_columns(path, cells, require)
    return [_row(where, cell, path.parent, dataset) for where, cell in cells]


def find_sounds(path: Path) -> list[Path]:
    """A sound file itself, or all sound files in a folder and below, sorted.

    Raises:
        UserError: nothing is there, or a folder without sounds.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    found = _sounds_in(path) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path}: no sound files in it ({', '.join(sorted(AUDIO_SUFFIXES))})")
    return found


def _sounds_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())


def write_manifest(rows: Sequence[Row], path: Path | str) -> None:
    """Write a json list of {"Dataset", "Uid", "Caption", ...}; fields without a value are left out.

    Several captions go to "Captions", with the first in "Caption". Paths inside the manifest's folder become relative.
    """
    path = Path(path)
    write_json(path, [_record(row, path.parent.resolve()) for row in rows])


def split_of(uid: str, valid_fraction: float) -> str:
    """ "train" or "valid" by a hash of the Uid: stable when other rows come or go."""
    return "valid" if _hash(uid) < valid_fraction else "train"


def assign_splits(rows: Sequence[Row], valid_fraction: float) -> None:
    """Fill in missing splits by hash, in place. If none falls to "valid", the row nearest to it goes there."""
    undecided = [row for row in rows if row.split is None]
    for row in undecided:
        row.split = split_of(row.uid, valid_fraction)
    no_valid = all(row.split != "valid" for row in rows)
    if valid_fraction > 0 and no_valid and undecided and len(rows) > 1:
        min(undecided, key=lambda row: _hash(row.uid)).split = "valid"


def _hash(uid: str) -> float:
    """A number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(uid.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48


def _read_text(path: Path) -> str:
    """UTF-8 with or without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise UserError(f"{path}:{line}: not UTF-8 (byte {byte:#04x}); save the file as UTF-8") from error


def _read_cells(path: Path) -> Iterator[Cell]:
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a manifest is a folder or one of {', '.join(readers)}")
    for where, cell in readers[path.suffix.lower()](path):
        if not isinstance(cell, dict):
            raise UserError(f"{where}: expected an object with columns such as Uid, Audio, Caption; found {cell!r:.60}")
        yield where, {str(key).strip().lower(): value for key, value in cell.items()}


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        for cell in reader:
            where = f"{path}:{reader.line_num}"
            if None in cell:
                raise UserError(f"{where}: more cells than columns; put captions that hold a comma in double quotes")
            yield where, cell
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid csv ({error})") from error


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}:{getattr(error, 'lineno', 1)}: not valid json ({error})") from error
    if not isinstance(content, list):
        raise UserError(f"{path}:1: expected a list of rows, found {type(content).__name__}")
    for number, cell in enumerate(content, 1):
        yield f"{path}: row {number}", cell


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid json ({error})") from error


def _read_folder(folder: Path, dataset: str | None) -> list[Row]:
    audio = _sounds_in(folder)
    if not audio:
        raise UserError(f"{folder}: holds neither sound files nor any of {', '.join(FOLDER_MANIFESTS)}")
    return [
        Row(
            dataset=dataset or folder.resolve().name,
            uid=file.relative_to(folder).with_suffix("").as_posix(),
            audio=file,
            captions=_sidecar_captions(file),
        )
        for file in audio
    ]


def _sidecar_captions(audio: Path) -> list[str]:
    sidecar = audio.with_suffix(".txt")
    if not sidecar.is_file():
        return []
    return [line.strip() for line in _read_text(sidecar).splitlines() if line.strip()]


def _check_columns(path: Path, cells: list[Cell], require: Sequence[str]) -> None:
    present = {"caption" if _CAPTION.fullmatch(key) else _ALIASES.get(key, key) for _, cell in cells for key in cell}
    for column in (*require, *(() if present & {c.lower() for c in COLUMNS} else ("Uid",))):
        if column.lower() not in present:
            near = get_close_matches(column.lower(), present, n=1)
            hint = f" (is it {near[0]!r}?)" if near else ""
            raise UserError(f"{path}:1: no column {column!r}{hint}; known columns: {', '.join(COLUMNS)}")


def _row(where: str, cell: dict[str, Any], folder: Path, dataset: str | None) -> Row:
    for alias, name in _ALIASES.items():
        if not cell.get(name) and cell.get(alias):
            cell[name] = cell[alias]
    files = {name: _text(where, cell, name) for name in _FILES}
    split = (_text(where, cell, "split") or "").lower()
    scene = cell.get("scene")
    if scene is not None and not isinstance(scene, dict):
        raise UserError(f"{where}: Scene is not an object")
    return Row(
        dataset=dataset or _text(where, cell, "dataset") or folder.resolve().name,
        uid=_text(where, cell, "uid") or _uid_from_files(where, [name for name in files.values() if name]),
        captions=_captions(where, cell),
        label=_text(where, cell, "label"),
        split=SPLITS.get(split, split) or None,
        duration=_duration(where, cell),
        scene=scene,
        **{name: folder / file if file else None for name, file in files.items()},
    )


def _text(where: str, cell: dict[str, Any], column: str) -> str | None:
    value = cell.get(column)
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where}: {column.capitalize()} is {value!r:.60}, expected text")


def _uid_from_files(where: str, files: list[str]) -> str:
    if not files:
        raise UserError(f"{where}: neither Uid nor Audio, Image or Video")
    path = Path(files[0])
    return path.stem if path.is_absolute() or ".." in path.parts else path.with_suffix("").as_posix()


def _captions(where: str, cell: dict[str, Any]) -> list[str]:
    captions: list[str] = []
    for column in (key for key in cell if _CAPTION.fullmatch(key)):
        values = cell[column] if isinstance(cell[column], list) else [cell[column]]
        for value in values:
            if not (value is None or isinstance(value, str)):
                raise UserError(f"{where}: {column.capitalize()} holds {value!r:.60}, expected text")
            text = (value or "").strip()
            if text and text not in captions:
                captions.append(text)
    return captions


def _duration(where: str, cell: dict[str, Any]) -> float | None:
    value = cell.get("duration")
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: Duration is {value!r:.60}, expected seconds") from error


def _record(row: Row, folder: Path) -> dict[str, Any]:
    def place(file: Path | None) -> str | None:
        if file is None:
            return None
        file = file.absolute()
        return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()

    record = {
        "Dataset": row.dataset,
        "Uid": row.uid,
        "Caption": row.captions[0] if row.captions else None,
        "Captions": row.captions if len(row.captions) > 1 else None,
        "Audio": place(row.audio),
        "Image": place(row.image),
        "Video": place(row.video),
        "Label": row.label,
        "Split": row.split,
        "Duration": row.duration,
        "Scene": row.scene,
    }
    return {name: value for name, value in record.items() if value is not None}
