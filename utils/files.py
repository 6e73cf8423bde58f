"""Atomic writing of files and folders, JSON files, portable file names, and the sounds and pictures in a folder."""

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import sys
import time
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sonolume.utils.errors import UserError, first_line

MAX_NAME_BYTES = 200  # file systems allow 255; the rest is left to counters and suffixes
MAX_UID_BYTES = 240  # per folder level; the rest is left to suffixes such as _w12.npy
TEMPORARY = ".tmp-"  # prefix of unfinished files and folders
DAY = 86400.0  # seconds
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})  # used for their sound track too
PYAV_SUFFIXES = VIDEO_SUFFIXES | {".m4a", ".m4b", ".aac", ".mka", ".wma"}  # unsupported by libsndfile
AUDIO_SUFFIXES = PYAV_SUFFIXES | {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"}
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
PARTIAL_WRITE = "requested and"  # numpy: "80000 requested and 1234 written"


def temporary_path(path: Path) -> Path:
    """Return an unused name in the same folder, thus on the same file system; writers choose the format by the suffix.

    It contains the number of the process. The first one in a folder removes what killed processes left there.
    """
    if path.parent not in _cleaned:
        _cleaned.add(path.parent)
        for left in filter(_is_abandoned, path.parent.glob(f"{TEMPORARY}*")):
            remove(left)
    return path.with_name(f"{TEMPORARY}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}{path.suffix}")


_cleaned: set[Path] = set()  # folders in which this process looked for temporary files


def _host() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_abandoned(temporary: Path) -> bool:
    """Whether no process will finish a temporary file or folder; of other machines, known after a day."""
    host, _, rest = temporary.name.removeprefix(TEMPORARY).partition("-")
    process = rest.partition("-")[0]
    if not process.isdecimal():  # of an older version
        return True
    try:
        if host != _host() or os.name == "nt":  # os.kill ends processes there
            return time.time() - temporary.stat().st_mtime > DAY
        os.kill(int(process), 0)
    except (ProcessLookupError, FileNotFoundError, OverflowError):
        return True
    except OSError:  # the process of another user
        return False
    return False


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is still there and may be removed."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add `path` to errors raised inside: writers report a full disk without the name of the file."""
    try:
        yield
    except OSError as error:
        if error.errno is None and PARTIAL_WRITE in str(error):
            raise OSError(errno.EIO, str(error), os.fspath(path)) from error
        if error.errno is not None and (error.filename is None or TEMPORARY in str(error.filename)):
            error.filename, error.filename2 = os.fspath(path), None
        raise
    except (RuntimeError, *safetensors_errors()) as error:
        error.add_note(os.fspath(path))
        raise


def safetensors_errors() -> tuple[type[Exception], ...]:
    """The exception of safetensors for a full disk, () if safetensors is not loaded and thus cannot raise it."""
    module = sys.modules.get("safetensors")
    return (module.SafetensorError,) if module else ()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block succeeds and removed when it fails."""
    path, temporary = Path(path), temporary_path(Path(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(folder: Path) -> list[Path]:
    """Find the temporary files and folders that killed processes left in a folder and below."""
    return [path for path in folder.rglob(f"{TEMPORARY}*") if _is_abandoned(path)]


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces `path` when the block succeeds.

    The old folder stays untouched until then, and is restored if the new one cannot be renamed. Files get the read
    permissions of their folder.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = temporary_path(path), temporary_path(path)
    with naming(path):
        temporary.mkdir()
    try:
        with naming(path):
            yield temporary
            mode = temporary.stat().st_mode & 0o666
            for file in temporary.rglob("*"):  # safetensors writes files that only their owner can read
                if file.is_file() and file.stat().st_mode & 0o777 == 0o600:
                    file.chmod(mode)
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | Path, content: Any) -> None:
    """Write indented UTF-8 JSON atomically. A lone surrogate (an undecodable argument) becomes its escape."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def read_text(path: str | Path, what: str = "a text file") -> str:
    """Read UTF-8, with or without a byte order mark; `what`, the expected kind of file, is part of the UserErrors."""
    try:
        with open(path, "rb") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():  # /dev/zero has no end
                raise UserError(f"{path}: is a device, not a file: expected {what}")
            return file.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: expected {what}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): expected {what}") from error
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise UserError(f"{path}:{line}: not UTF-8 (byte {byte:#04x}); save the file as UTF-8") from error


def read_json(path: str | Path, what: str = "a settings file") -> dict[str, Any]:
    """Read the object of a JSON file; a UserError, as of `read_text`, names the mistake in every other file."""
    try:
        content = json.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({first_line(error)}): expected {what}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not an object: expected {what}")
    return content


def safe_name(text: str, max_length: int = 80) -> str:
    """Turn any text into a file name of letters and digits of every script, `-` and `_`; never empty, never a path.

    Everything else becomes `_`. At most `max_length` characters and `MAX_NAME_BYTES` bytes.
    """
    name = ""
    for character in unicodedata.normalize("NFKC", text):
        is_mark = unicodedata.category(character).startswith("M")  # vowel signs belong to the letter before them
        if character.isalnum() or character == "-" or (is_mark and name and name[-1] != "_"):
            name += character
        elif not name.endswith("_"):
            name += "_"
    name = name.strip("_-")[:max_length].encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return name.strip("_-") or "unnamed"


def is_safe_uid(uid: str) -> bool:
    """Check that {folder}/{uid}.npy stays inside the folder on every system and collides with no other file."""
    path = PurePosixPath(uid)
    plain = str(path) == uid and uid.isprintable() and "\\" not in uid and not PureWindowsPath(uid).drive
    if not plain or path.is_absolute() or not path.parts:  # "." has no parts
        return False
    ambiguous = any(part.endswith(".npy") for part in path.parts[:-1])  # could be the file of another Uid
    return not ambiguous and all(part[0] != "." and len(part.encode()) <= MAX_UID_BYTES for part in path.parts)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_sounds(*places: Path) -> list[Path]:
    """List sound files and those in folders and below, sorted, each once; raises as `find_files`."""
    return find_files(places, sounds_in, f"sound files ({', '.join(sorted(AUDIO_SUFFIXES))})")


def find_files(
    places: Iterable[Path], list_folder: Callable[[Path], list[Path]], what: str, flag: str = ""
) -> list[Path]:
    """List the given files and the files of the given folders, each once.

    Args:
        list_folder: lists the files of one folder.
        what: name of these files, and `flag` that of the places, for messages.

    Raises:
        UserError: a place does not exist, or a folder contains no such file.
    """
    found: list[Path] = []
    for place in places:
        name = f"{flag} {place}".lstrip()
        if not place.exists():
            raise UserError(f"{name}: no such file or folder")
        inside = list_folder(place) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"{name}: contains no {what}")
        found += inside
    return list(dict.fromkeys(found))


def sounds_in(folder: Path) -> list[Path]:
    """List sound files and videos in a folder and below, sorted, videos last; follows linked folders."""
    return sorted(files_in(folder, AUDIO_SUFFIXES), key=lambda file: (is_video(file), file))


def pictures_in(folder: Path) -> list[Path]:
    """List image files in a folder and below, sorted; follows linked folders."""
    return files_in(folder, PICTURE_SUFFIXES)


def files_in(folder: Path, suffixes: Set[str]) -> list[Path]:
    """List the files with one of the suffixes in a folder and below, sorted; follows linked folders."""
    found, visited = [], set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in visited:  # a link to a parent folder would never end
            subfolders.clear()
            continue
        visited.add(os.path.realpath(place))
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in suffixes]
    return sorted(file for file in found if file.is_file())
