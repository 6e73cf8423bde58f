"""WebDataset tars of sounds with captions, for moving data sets: packed from a manifest, and extracted to a folder.

A sample is the members of a tar with one name up to its first dot: a sound (such as 000017.flac) and its captions, one
in each line of a .txt, or in a .json with columns of a manifest (Caption, Captions, Uid, Label ...; `text` stands for
missing captions). Preparation reads the extracted folder like any other.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from sonolume.utils import files
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.manifest import COLUMNS, Row

METADATA = "metadata.jsonl"
CLIPS = 4000  # of a packed tar
COPIED = [name for name in COLUMNS if name not in ("Audio", "Image", "Video", "Dataset", "Caption")]
Members = dict[str, bytes]  # by suffix, such as ".flac"


def extract(tars: Sequence[Path], folder: Path, progress: Callable[[int], Any] = lambda _: None) -> int:
    """Write the sounds of tars as {folder}/{name of the tar}/{key}.flac, and a metadata.jsonl of all in the folder.

    A tar that was extracted before is skipped; one that fails leaves nothing.

    Args:
        progress: called with 1 after each tar.

    Returns:
        Number of sounds.

    Raises:
        UserError: a tar is damaged, or two have the same name; a member has an unusable name or text; the folder
            contains other sounds.
    """
    if (folder / METADATA).is_file() and set(_lines(folder / METADATA)) - set(_extracted_lines(folder)):
        raise UserError(f"{folder / METADATA}: is of other sounds: choose another folder")
    names = [tar.name.partition(".")[0] for tar in tars]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{folder}: two tars are named {twice}: extract them into two folders")
    for tar, name in zip(tars, names, strict=True):
        if not (folder / name / METADATA).is_file():
            with files.atomic_folder(folder / name) as unfinished:
                rows = [_write_sample(unfinished, name, key, members) for key, members in read_samples(tar)]
                found = [row for row in rows if row is not None]
                if not found:
                    raise UserError(f"{tar}: holds no sounds ({', '.join(sorted(files.AUDIO_SUFFIXES))})")
                (unfinished / METADATA).write_text("".join(json.dumps(row) + "\n" for row in found))
        progress(1)
    lines = _extracted_lines(folder)
    with files.atomic_path(folder / METADATA) as temporary:
        temporary.write_text("".join(lines))
    return len(lines)


def _lines(path: Path) -> list[str]:
    return files.read_text(path).splitlines(keepends=True)


def _extracted_lines(folder: Path) -> list[str]:
    """Lines of the manifests of all tars that were extracted to a folder."""
    return [line for path in sorted(folder.glob(f"*/{METADATA}")) for line in _lines(path)]


def read_samples(tar: Path) -> Iterator[tuple[str, Members]]:
    """Yield the samples of a tar, plain or compressed, in their order; a UserError says what is wrong with it."""
    try:
        with tarfile.open(tar, "r:*") as file:
            regular = (member for member in file if member.isfile())
            for key, members in groupby(regular, lambda member: _split(member.name)[0]):
                if not files.is_safe_uid(key):
                    raise UserError(f"{tar}: a member has the name {key!r:.100}, which is no name of a file: rename it")
                yield key, {_split(one.name)[1]: _read(file, one) for one in members}
    except FileNotFoundError as error:
        raise UserError(f"{tar}: no such tar") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.filename not in (None, str(tar)):
            raise  # of a file that is written
        raise UserError(f"{tar}: is no tar, or damaged ({first_line(error)})") from error


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member: folder/17.flac -> folder/17, .flac."""
    path = PurePosixPath(name)
    stem, dot, suffix = path.name.partition(".")
    return (path.parent / stem).as_posix(), (dot + suffix).lower()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a regular file
    return file.read()


def _write_sample(folder: Path, tar: str, key: str, members: Members) -> dict[str, Any] | None:
    """Write the sound of a sample, and return its row of the manifest; None if it has no sound."""
    suffix = next((one for one in members if one in files.AUDIO_SUFFIXES), None)
    if suffix is None:
        return None
    path = folder / f"{key}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(members[suffix])
    return {"Uid": f"{tar}/{key}"} | _columns(f"{tar}: {key}", members) | {"file_name": f"{tar}/{key}{suffix}"}


def _columns(where: str, members: Members) -> dict[str, Any]:
    """Columns of a sample from its .json and .txt."""
    try:
        columns = json.loads(members.get(".json", b"{}"))
        text = members.get(".txt", b"").decode("utf-8-sig")
    except ValueError as error:
        raise UserError(f"{where}: its .json or .txt cannot be read ({first_line(error)})") from error
    if not isinstance(columns, dict):
        raise UserError(f"{where}: its .json holds a {type(columns).__name__}, not an object")
    captions = [line.strip() for line in text.splitlines() if line.strip()]
    has_captions = any(key.lower().startswith("caption") for key in columns)
    if not captions and not has_captions and isinstance(columns.get("text"), str | list):
        captions = columns["text"] if isinstance(columns["text"], list) else [columns["text"]]
    renamed = {key: value for key, value in columns.items() if key.lower() not in ("audio", "path", "file_name")}
    return renamed | ({"Captions": captions} if captions else {})


def pack(rows: Sequence[Row], folder: Path, clips: int = CLIPS) -> Iterator[Path]:
    """Write sounds with their captions as {folder}/00000.tar ...; yields the path of each.

    Sounds are copied as they are, without decoding. The bytes of a tar depend on its rows only.
    """
    for number, start in enumerate(range(0, len(rows), clips)):
        path = folder / f"{number:05d}.tar"
        with files.atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for index, row in enumerate(rows[start : start + clips], start):
                if row.audio is None or not row.audio.is_file():
                    raise UserError(f"{row.uid}: {row.audio or 'has no Audio'}: no such file")
                _add(tar, f"{index:09d}{row.audio.suffix.lower()}", row.audio.read_bytes())
                values = {name: getattr(row, name.lower()) for name in COPIED}
                text = json.dumps({name: value for name, value in values.items() if value not in (None, [])})
                _add(tar, f"{index:09d}.json", text.encode())
        yield path


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # of time 0, and of nobody
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
