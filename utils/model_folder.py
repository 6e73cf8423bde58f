"""Where a model is loaded from: a folder or an id of the model hub, and which class wrote the folder.

Exported folders carry a copy of this file: it needs the standard library only, and raises ValueErrors.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SETTINGS = ("model_index.json", "config.json", "audio_to_image.json", "im2wav.json")  # of all kinds of folders


def find_folder(source: str | os.PathLike[str], base: Path | None = None) -> Path | None:
    """Return the folder that `source` names, as an absolute path, or None if it is an id of the model hub.

    A relative path is relative to `base`, by default the working directory. Of a missing path `owner/name`, only one
    whose `owner` is no folder is an id.

    Raises:
        ValueError: a file, or a missing folder.
    """
    given = os.fspath(source)
    path = os.path.join(base or Path.cwd(), os.path.expanduser(given))
    if os.path.isdir(path):
        return Path(os.path.abspath(path))
    if os.path.exists(path):
        raise ValueError(f"{given}: is a file, not the folder of a model")
    is_in_folder = "/" in given and os.path.isdir(os.path.dirname(path))
    if HUB_ID.fullmatch(given) and not given.startswith(".") and not is_in_folder:
        return None
    raise ValueError(f"{given}: no such folder")


def settings_file(folder: Path) -> Path | None:
    """Return the file that names the class of the model in an exported folder, or None if there is none."""
    return next((folder / name for name in SETTINGS if (folder / name).is_file()), None)


def class_in(settings: Any) -> str:
    """Name the class of the model, or the recipe, from the content of a settings file; "" if it names neither."""
    content = settings if isinstance(settings, dict) else {}
    found = content.get("_class_name") or content.get("architectures") or content.get("recipe")
    return str(found[-1] if isinstance(found, list) else found or "")


def check_class(folder: Path, *names: str) -> None:
    """Check that one of the classes (or recipes) `names` wrote a folder, before a library loads it.

    Raises:
        ValueError: another one, none, or settings that are damaged.
    """
    path = settings_file(folder)
    try:
        found = class_in(json.loads(path.read_text(encoding="utf-8"))) if path else ""
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{path}: damaged: {error}") from error
    if found not in names:
        raise ValueError(f"{folder}: holds {found or 'no exported model'}, not {names[0]}")
