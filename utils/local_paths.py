"""Paths of this machine in text that leaves it: cut from settings and cards, found before a model is published."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

WHOLE = re.compile(r"((?:\w{2,}:)?)(~[\w.-]*/|/(?!/)|[A-Za-z]:[\\/])(.*[^\\/\s].*)", re.DOTALL)  # or KIND:/path
HOMES = ("home", "Users")  # folders of users' folders
PLACES = "home|Users|root|tmp|var|mnt|media|opt|scratch|srv|private|Volumes|work|data|workspace"
END = r"[^\s\"'`)>,;|]*"
INSIDE = re.compile(rf"file://\S+|(?<![\w.:/*~<-])/(?:{PLACES})/[\w.-]{END}|(?<!\w)[A-Za-z]:\\+Users\\{END}"
                    rf"|(?<![\w/])~[\w-]*/[\w.]{END}")  # fmt: skip


def strip(value: Any) -> Any:
    """Reduce every local path in settings to its last two parts, without a user's name; the rest stays as it is."""
    if isinstance(value, dict):
        return {name: strip(item) for name, item in value.items()}
    if isinstance(value, list):
        return [strip(item) for item in value]
    match = WHOLE.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else match[1] + _last_parts(match[2], match[3])


def _last_parts(start: str, rest: str) -> str:
    parts = (PureWindowsPath(rest) if start[1:2] == ":" else PurePosixPath(rest)).parts
    if parts[:1] and parts[0] in HOMES:
        parts = parts[2:]
    return "/".join(part for part in parts[-2:] if part.strip("\\/"))


def find_in_text(text: str) -> str | None:
    """Find a path of a personal or temporary folder in running text, or return None."""
    home = str(Path.home())
    if len(home) > 1 and (found := re.search(rf"(?<![\w.-]){re.escape(home)}(?![\w.-]){END}", text)):
        return found[0]
    match = INSIDE.search(text)
    return match[0] if match else None


def find_in_value(value: str) -> str | None:
    """Find a local path in one value of settings: the value itself, or inside of it; else return None."""
    match = WHOLE.fullmatch(value)
    if match and "\n" not in value and ("/" in match[3].strip("/") or match[2] != "/" or os.path.exists(value)):
        return value
    return find_in_text(value)
