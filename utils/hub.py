"""Pretrained parts by name: a local folder, or an id of the model hub."""

import re
from pathlib import Path

from sonolume.utils import paths
from sonolume.utils.errors import UserError

CONVERT = "; bins/convert.py turns official checkpoints into folders (see its --help)"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(source: str, key: str, remedy: str = "") -> str:
    """Resolve a path, relative to the repository, to an absolute folder, or return a hub id unchanged.

    A UserError names the `key` (config key or flag) of a file or a missing folder, and the `remedy` for the latter.
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
    """Check whether a result of `locate` is a local folder rather than a hub id."""
    return Path(located).is_absolute()


def inside(located: str, component: str) -> str:
    """Return the folder of a component if `located` is a local pipeline folder, else `located` itself."""
    is_pipeline = is_local(located) and (Path(located) / "model_index.json").is_file()
    return str(Path(located) / component) if is_pipeline else located
