"""Typed manifest rows for every task, read from csv, json, jsonl or a plain folder, written as train.json.

Free of torch and numpy, so that a wrong manifest is reported before slow imports.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError
from sonolume.utils.files import is_video, read_text, sounds_in, write_json
from sonolume.utils.text import has_surrogates

COLUMNS = (
    "Dataset", "Uid", "Caption", "Captions", "Audio", "Image", "Video", "Label", "Split", "Duration", "Scene",
    "Speaker",
)  # fmt: skip
FOLDER_MANIFESTS = ("captions.csv", "metadata.json", "metadata.jsonl", "metadata.csv")
SPLITS = {"val": "valid", "validation": "valid", "dev": "valid", "training": "train", "testing": "test"}
_CAPTION = re.compile(r"captions?[ _]?\d*")  # Caption, Captions, caption_1 ... caption_5
MANIFEST_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
_FILES = ("audio", "image", "video")

Cell = tuple[str, dict[str, Any]]  # position of a row ("file:line") and its lower-case columns


@dataclass
class Row:
    """One example. After reading, paths are absolute or relative to the working directory."""

    dataset: str
    uid: str  # unique within the dataset; may contain slashes
    audio: Path | None = None
    captions: list[str] = field(default_factory=list)  # wordings of the same sound; one is drawn per epoch
    image: Path | None = None
    video: Path | None = None
    label: str | None = None
    split: str | None = None  # such as "train" or "test"; None if the source has no splits
    duration: float | None = None  # seconds
    scene: dict[str, Any] | None = None  # description of the example in the miniature world
    speaker: str | None = None  # of speech


def read_manifest(
    path: Path | str, dataset: str | None = None, require: Sequence[str] = (), files_in: Path | None = None
) -> list[Row]:
    """Read rows from a csv, json or jsonl file, or from a folder.

    Columns are named as in `COLUMNS`, in upper or lower case; `Path` and `file_name` stand for a missing Audio; unknown
    columns are ignored. A missing Uid is the audio path without its suffix. A folder contains a manifest
    (`FOLDER_MANIFESTS`), or sound files with captions in text files of the same name, one per line.

    Args:
        dataset: overrides the Dataset of the rows; by default it is theirs, else the name of the folder.
        require: columns that at least one row must have, such as ("Audio",); "Audio|Video" is either of the two.
        files_in: folder of relative paths, by default that of the manifest.

    Raises:
        UserError: names the file, the line or row, and the mistake.
    """
    return [row for row, _ in read_columns(path, dataset, require, files_in)]


def read_columns(
    path: Path | str, dataset: str | None = None, require: Sequence[str] = (), files_in: Path | None = None
) -> list[tuple[Row, dict[str, Any]]]:
    """Read rows as `read_manifest`, each with all columns of the manifest by their lower-case names."""
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in FOLDER_MANIFESTS if (path / name).is_file()), None)
        if found is None and files_in is None:
            return [(row, {}) for row in _read_folder(path, dataset or path.resolve().name)]
        if found is None:
            raise UserError(f"{path}: contains none of {', '.join(FOLDER_MANIFESTS)} to name files of {files_in}")
        path = found
    if not path.is_file():
        raise UserError(f"{path}: no such manifest or folder")
    cells = read_cells(path)
    _check_columns(path, cells, require)
    return [(_row(where, cell, path.parent, files_in or path.parent, dataset), cell) for where, cell in cells]


def read_cells(path: Path) -> list[Cell]:
    """Read the rows of a csv, tsv, json or jsonl file, each with its position; a UserError names what is unreadable."""
    suffix = path.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise UserError(f"{path}: a manifest is a folder or one of {', '.join(MANIFEST_SUFFIXES)}")
    text = read_text(path)
    if suffix == ".json":
        content = _parse_json(text, path)
        if not isinstance(content, list):
            raise UserError(f"{path}:1: expected a list of rows, found {type(content).__name__}")
        found = [(f"{path}: row {number}", cell) for number, cell in enumerate(content, 1)]
    elif suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        found = [(f"{path}:{number}", _parse_json(line, path, number)) for number, line in lines]
    else:
        found = _parse_csv(text, path, "\t" if suffix == ".tsv" else ",")
    if not found:
        raise UserError(f"{path}: holds no rows")
    for where, cell in found:
        if not isinstance(cell, dict):
            raise UserError(f"{where}: expected an object with columns such as Uid, Audio, Caption; found {cell!r:.60}")
    return [(where, {str(key).strip().lower(): value for key, value in cell.items()}) for where, cell in found]


def header(table: Path) -> set[str]:
    """Read the lower-case column names of a csv file."""
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        return {name.strip(' "\r\n').lower() for name in file.readline(1000).split(",")}


def write_manifest(rows: Sequence[Row], path: Path | str) -> None:
    """Write a json list of {"Dataset", "Uid", "Caption", ...} without empty fields.

    "Captions" holds several captions, "Caption" the first. Paths inside the folder of the manifest become relative.
    """
    folder = Path(path).parent.resolve()
    write_json(path, [record(row, folder) for row in rows])


def record(row: Row, folder: Path) -> dict[str, Any]:
    """Return the entry of a row in a json manifest of a folder, which is an absolute path without links."""
    values = {name: getattr(row, name.lower(), None) for name in COLUMNS}
    values["Caption"] = row.captions[0] if row.captions else None
    values["Captions"] = row.captions if len(row.captions) > 1 else None
    for name, file in values.items():
        if isinstance(file, Path):
            file = file.absolute()
            values[name] = (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
    return {name: value for name, value in values.items() if value is not None}


def row_of(entry: dict[str, Any], folder: Path, dataset: str) -> Row:
    """Return the row of an entry that `record` made for `folder`."""
    return _row(str(folder), {name.lower(): value for name, value in entry.items()}, folder, folder, dataset)


def assign_splits(rows: Sequence[Row], valid_fraction: float) -> None:
    """Fill in missing splits by a hash of the Uid alone, in place; at least one row is assigned to "valid"."""
    undecided = [row for row in rows if row.split is None]
    for row in undecided:
        row.split = "valid" if _hash(row.uid) < valid_fraction else "train"
    no_valid = all(row.split != "valid" for row in rows)
    if valid_fraction > 0 and no_valid and undecided and len(rows) > 1:
        min(undecided, key=lambda row: _hash(row.uid)).split = "valid"


def _hash(uid: str) -> float:
    """Hash to a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(uid.encode("utf-8", "surrogatepass")).digest()[:6]) / 2**48


def _parse_csv(text: str, path: Path, delimiter: str) -> list[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        found = [(f"{path}:{reader.line_num}", cell) for cell in reader]
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not valid csv ({error})") from error
    for where, cell in found:
        if None in cell:
            raise UserError(f"{where}: more cells than columns; put captions with commas in double quotes")
    return found


def _parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of more than 4,300 digits
        line = first_line + getattr(error, "lineno", 1) - 1
        raise UserError(f"{path}:{line}: not valid json ({error})") from error


def _read_folder(folder: Path, dataset: str) -> list[Row]:
    audio = sounds_in(folder)
    if not audio:
        raise UserError(f"{folder}: holds neither sound files nor any of {', '.join(FOLDER_MANIFESTS)}")
    uids = [file.relative_to(folder).with_suffix("").as_posix() for file in audio]
    return [Row(dataset, uid, file, sidecar_captions(file), video=file if is_video(file) else None)
            for uid, file in zip(uids, audio, strict=True)]  # fmt: skip


def sidecar_captions(audio: Path) -> list[str]:
    """Read the captions in the text file next to a sound file, one per line; [] without one."""
    sidecar = audio.with_suffix(".txt")
    lines = read_text(sidecar).splitlines() if sidecar.is_file() else []
    return [line.strip() for line in lines if line.strip()]


def _check_columns(path: Path, cells: list[Cell], require: Sequence[str]) -> None:
    present = {key for _, cell in cells for key in cell}
    present |= {"caption" for key in present if _CAPTION.fullmatch(key)}
    present |= {"audio" for key in present if key in ("path", "file_name")}
    for column in (*require, *(() if present & {c.lower() for c in COLUMNS} else ("Uid",))):
        names = column.split("|")
        if not present & {name.lower() for name in names}:
            near = get_close_matches(names[0].lower(), present, n=1)
            hint = f" (is it {near[0]!r}?)" if near else ""
            raise UserError(f"{path}:1: no column {names[0]!r}{hint}; known columns: {', '.join(COLUMNS)}")


def _row(where: str, cell: dict[str, Any], folder: Path, files_in: Path, dataset: str | None) -> Row:
    if not cell.get("audio"):
        cell["audio"] = cell.get("path") or cell.get("file_name") or cell.get("audio")
    text = {name: _text(where, cell, name) for name in ("dataset", "uid", "label", "split", "speaker", *_FILES)}
    files = {name: files_in / file for name in _FILES if (file := text[name])}
    split = (text["split"] or "").lower()
    uid, named = text["uid"], [Path(file) for name in _FILES if (file := text[name])]
    if not uid:
        if not named:
            raise UserError(f"{where}: neither Uid nor Audio, Image or Video")
        is_inside = not named[0].is_absolute() and ".." not in named[0].parts
        uid = named[0].with_suffix("").as_posix() if is_inside else named[0].stem
    scene, duration = cell.get("scene"), cell.get("duration")
    if scene is not None and not isinstance(scene, dict):
        raise UserError(f"{where}: Scene is not an object")
    try:
        seconds = None if duration in (None, "") else float(duration)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: Duration is {duration!r:.60}, expected seconds") from error
    if seconds is not None and not math.isfinite(seconds):
        raise UserError(f"{where}: Duration is {duration!r:.60}, expected seconds")
    return Row(
        dataset or text["dataset"] or folder.resolve().name, uid, captions=captions_in(where, cell),
        label=text["label"], split=SPLITS.get(split, split) or None, duration=seconds, scene=scene,
        speaker=text["speaker"], **files,
    )  # fmt: skip


def _text(where: str, cell: dict[str, Any], column: str) -> str | None:
    value = cell.get(column)
    if column == "label" and isinstance(value, str) and has_surrogates(value):
        raise UserError(f"{where}: Label is {value!r:.60}, with half a character: write it anew")
    if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
        return None if value is None else str(value).strip() or None
    raise UserError(f"{where}: {column.capitalize()} is {value!r:.60}, expected text")


def captions_in(where: str, cell: dict[str, Any]) -> list[str]:
    """Collect the captions of a row: Caption, Captions, caption_1 ...; without repetitions."""
    captions: dict[str, None] = {}
    for column in (key for key in cell if _CAPTION.fullmatch(key)):
        values = cell[column] if isinstance(cell[column], list) else [cell[column]]
        for value in values:
            if not (value is None or isinstance(value, str)):
                raise UserError(f"{where}: {column.capitalize()} is {value!r:.60}, expected text")
            text = (value or "").strip()
            if has_surrogates(text):
                raise UserError(f"{where}: {column.capitalize()} is {text!r:.60}, with half a character: write it anew")
            captions[text] = None
    return [text for text in captions if text]
