"""Pretrained parts by name: a local folder, or an id of the model hub."""

import re
from pathlib import Path

from sonolume.utils import paths
from sonolume.utils.errors import UserError

CONVERT = "; official checkpoints are made into folders by bins/convert.py (see its --help)"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(source: str, key: str, remedy: str = "") -> str:
    """The absolute path of a local folder, or the hub id as it is.

    Args:
        source: a path relative to the repository, an absolute one, or a hub id ("name" or "owner/name").
        key: the config key or flag it came from, for the message.
        remedy: what else can be done when it is not there.

    Raises:
        UserError: it looks like a path and nothing is there.
    """
    folder = paths.resolve(source)
    if folder.is_dir():
        return str(folder)
    if folder.exists():
        raise UserError(f"{key} {source}: is a file, not the folder of a model{CONVERT}")
    if HUB_ID.fullmatch(source) and not source.startswith("."):
        return source
    raise UserError(f"{key} {source}: no such folder{f'; {remedy}' if remedy else ''}")


def is_local(located: str) -> bool:
    """True for what `locate` found on this disk."""
    return Path(located).is_absolute()


def inside(located: str, component: str) -> str:
    """A component's folder if `located` is a local pipeline folder, else `located` itself."""
    is_pipeline = is_local(located) and (Path(located) / "model_index.json").is_file()
    return str(Path(located) / component) if is_pipeline else located
