"""The configs of the recipes by name: tta/audioldm/tiny is egs/tta/audioldm/tiny.json. Imports no torch."""

import difflib
import os
from pathlib import Path

from sonolume.utils import paths
from sonolume.utils.errors import UserError

MAIN = "exp_config"  # the config that the name of a recipe alone stands for


def configs() -> dict[str, Path]:
    """Find all configs: name -> file. That of a recipe's `MAIN` config is the recipe's, such as tta/audioldm."""
    egs = paths.root() / "egs"
    names = {file.relative_to(egs).with_suffix("").as_posix(): file for file in egs.rglob("*.json")}
    names = {name.removesuffix(f"/{MAIN}"): file for name, file in names.items()}
    return {name: names[name] for name in sorted(names)}


def find(name: str, script: str = "") -> Path:
    """Return the file of a config, of a recipe's name its `MAIN` one, or its {script}.json if it has one.

    Raises:
        UserError: no such config; the nearest name is suggested.
    """
    found = configs()
    file = found.get(f"{name}/{script}") or found.get(name.removesuffix(f"/{MAIN}"))
    if file is None:
        raise unknown(name)
    return file


def group(prefix: str = "") -> dict[str, Path]:
    """Return the configs of a recipe, of a task, or all: name -> file; empty for an unknown prefix."""
    folder = f"{prefix}/" if prefix else ""
    return {name: file for name, file in configs().items() if f"{name}/".startswith(folder)}


def unknown(name: str) -> UserError:
    """Error for a name that no config has."""
    if os.path.isfile(name):
        return UserError(f"{name}: is a file: write --config {name}")
    near = difflib.get_close_matches(name, configs(), n=1)
    hint = f"did you mean {near[0]}?" if near else "sonolume configs lists them"
    return UserError(f"{name}: no recipe's config has this name: {hint}")
