"""Find files: paths of a config, folders of pretrained models, and the sounds and pictures in a folder.

Paths in a config are relative to the repository root, paths in flags to the working directory.
"""

import os
import re
from collections.abc import Set
from pathlib import Path

from sonolume.utils.errors import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi"})  # used for their sound track too
PYAV_SUFFIXES = VIDEO_SUFFIXES | {".m4a", ".m4b", ".aac", ".mka", ".wma"}  # unsupported by libsndfile
AUDIO_SUFFIXES = PYAV_SUFFIXES | {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"}
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
CONVERT = "; bins/convert.py turns official checkpoints into folders (see its --help)"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def root() -> Path:
    """The checkout of this file, or the working directory if sonolume was installed as a wheel."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "egs").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """Make a path from a config absolute: relative to `root()`, with `~` expanded."""
    return root() / Path(path).expanduser()


def locate(source: str, key: str, remedy: str = "") -> str:
    """Resolve the path of a pretrained model, as `resolve`, to its folder, or return the id of the model hub unchanged.

    A UserError names the `key` (config key or flag) of a file or a missing folder, and the `remedy` for the latter.
    """
    folder = resolve(source)
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise UserError(f"{key} {source}: is a file, not the folder of a model{CONVERT}")
    if HUB_ID.fullmatch(source) and not source.startswith("."):
        return source
    raise UserError(f"{key} {source}: no such folder{f'; {remedy}' if remedy else ''}")


def is_local(located: str) -> bool:
    """Check whether a result of `locate` is a local folder rather than a hub id."""
    return Path(located).is_absolute()


def inside(located: str, component: str) -> str:
    """Return the folder of a component if `located` is a local pipeline folder, else `located` itself."""
    is_pipeline = is_local(located) and (Path(located) / "model_index.json").is_file()
    return str(Path(located) / component) if is_pipeline else located


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_sounds(*places: Path) -> list[Path]:
    """List sound files and those in folders and below, sorted, each once; a UserError names a place without one."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")
        sounds = sounds_in(place) if place.is_dir() else [place]
        if not sounds:
            raise UserError(f"{place}: contains no sound files ({', '.join(sorted(AUDIO_SUFFIXES))})")
        found += sounds
    return list(dict.fromkeys(found))


def sounds_in(folder: Path) -> list[Path]:
    """List sound files and videos in a folder and below, sorted, videos last; follows linked folders."""
    return sorted(_files_in(folder, AUDIO_SUFFIXES), key=lambda file: (is_video(file), file))


def pictures_in(folder: Path) -> list[Path]:
    """List image files in a folder and below, sorted; follows linked folders."""
    return sorted(_files_in(folder, PICTURE_SUFFIXES))


def _files_in(folder: Path, suffixes: Set[str]) -> list[Path]:
    found, visited = [], set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in visited:  # a link to a parent folder would never end
            subfolders.clear()
            continue
        visited.add(os.path.realpath(place))
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in suffixes]
    return [file for file in found if file.is_file()]
