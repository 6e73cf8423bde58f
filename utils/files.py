"""Files that are whole or absent, and names that every file system takes."""

import json
import os
import shutil
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_NAME_BYTES = 200  # file systems allow 255; the rest is left to counters and suffixes


def _sibling(path: Path) -> Path:
    """A free name beside `path`, on the same file system; the suffix stays, because writers choose formats by it."""
    return path.with_name(f".tmp-{uuid.uuid4().hex[:12]}{path.suffix}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to. It becomes `path` when the block succeeds and is removed when it fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty temporary folder that takes the place of `path` when the block succeeds.

    The old folder stays whole until then, and comes back if the new one cannot take its place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _sibling(path), _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.rename(path, old)
        os.rename(temporary, path)
    finally:
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | Path, content: Any) -> None:
    """Writes indented UTF-8 JSON, whole or not at all. A lone surrogate (undecodable argument) becomes its escape."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def safe_name(text: str, max_length: int = 80) -> str:
    """A file name for any text: letters and digits of every script, `-` and `_`; never empty, never a path.

    Everything else becomes one `_`. At most `max_length` characters and `MAX_NAME_BYTES` bytes.
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


def free_path(folder: str | Path, stem: str, suffix: str) -> Path:
    """The first of `stem.suffix`, `stem-2.suffix`, `stem-3.suffix` ... in `folder` that does not exist."""
    path, count = Path(folder) / f"{stem}{suffix}", 1
    while path.exists():
        count += 1
        path = Path(folder) / f"{stem}-{count}{suffix}"
    return path
