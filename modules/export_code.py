"""Export of a pipeline's code: its module and the modules that it imports, as files of the saved folder."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

IMPORT = re.compile(r"^from (sonolume\.modules)?\.(\w+) import", re.MULTILINE)


def add_code(folder: Path, source: Path, class_name: str) -> None:
    """Make a folder written by diffusers' `save_pretrained` loadable where sonolume is not installed.

    Local paths are removed from its configs.

    Args:
        source: file of the pipeline's class.
    """
    copy_code(source, folder)
    _update(folder / "model_index.json", {"_class_name": [source.stem, class_name]})  # diffusers imports source.stem
    for config in (folder / "model_index.json", *folder.glob("*/config.json")):
        _update(config, {"_name_or_path": None})


def _update(path: Path, changes: dict[str, Any]) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if name not in changes or value is not None}
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def copy_code(source: Path, folder: Path) -> None:
    """Copy a module's file, and all modules of `sonolume.modules` (or of its own folder) that it imports.

    In the copies `from sonolume.modules.x import` reads `from .x import`.
    """
    text = source.read_text(encoding="utf-8")
    target = folder / source.name
    target.write_text(IMPORT.sub(r"from .\2 import", text), encoding="utf-8")
    for package, name in IMPORT.findall(text):
        if not (folder / f"{name}.py").exists():
            copy_code(_file_of(name) if package else source.with_name(f"{name}.py"), folder)


def _file_of(name: str) -> Path:
    spec = importlib.util.find_spec(f"sonolume.modules.{name}")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"sonolume.modules.{name}")
    return Path(spec.origin)
