"""Locations. Paths in a config are relative to the repository root, paths in flags to the working directory.

A pretrained part is named by a local folder, or by an id of the model hub.
"""

import re
from pathlib import Path

from sonolume.utils.errors import UserError, first_line
from sonolume.utils.files import read_json

CONVERT = "; bins/convert.py turns official checkpoints into folders (see its --help)"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def root() -> Path:
    """The checkout of this file, or the working directory if sonolume was installed as a wheel."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "egs").is_dir() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """Make a path from a config absolute: relative to `root()`, with `~` expanded."""
    return root() / Path(path).expanduser()


def locate(source: str, key: str, remedy: str = "", flag: bool = False) -> str:
    """Resolve a path, relative to the repository, to an absolute folder, or return a hub id unchanged.

    A UserError names the `key` (config key or flag) of a file or a missing folder, and the `remedy` for the latter.
    With `flag`, a path that exists in the working directory is relative to it.
    """
    given = Path(source).expanduser()
    folder = given.resolve() if flag and given.exists() else resolve(source)
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


def download(located: str, key: str) -> Path:
    """Return the folder of a result of `locate`, which is downloaded first if it is a hub id."""
    if is_local(located):
        return Path(located)
    from huggingface_hub import snapshot_download  # slow

    try:
        return Path(snapshot_download(located))
    except (OSError, ValueError) as error:
        reason = f"neither a folder nor available from the hub: {first_line(error)}"
        raise UserError(f"{key} {located}: {reason}") from error


def kind_of(folder: Path) -> str:
    """Name the class of the model in an exported folder, or the recipe of the folder; "" if it holds neither."""
    for name in ("model_index.json", "config.json", "audio_to_image.json", "im2wav.json"):
        if (folder / name).is_file():
            content = read_json(folder / name, "the settings of an exported model")
            kind = content.get("_class_name") or content.get("architectures") or content.get("recipe")
            return str(kind[-1] if isinstance(kind, list) else kind or "")
    return ""
