"""Export of a pipeline's code: its module and the modules that it imports, as files of the saved folder."""

import json
import re
from pathlib import Path
from typing import Any

IMPORT = re.compile(r"^from (?:sonolume\.(modules|utils))?\.(\w+) import", re.MULTILINE)


def add_code(folder: Path, source: Path, class_name: str) -> None:
    """Make a folder written by diffusers' `save_pretrained` loadable where sonolume is not installed.

    Local paths are removed from its configs. `source` is the file of the pipeline's class.
    """
    copy_code(source, folder)
    index = folder / "model_index.json"
    for path in (index, *folder.glob("*/config.json")):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content.pop("_name_or_path", None)
        if path == index:
            content["_class_name"] = [source.stem, class_name]  # diffusers imports source.stem
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def copy_code(source: Path, folder: Path) -> None:
    """Copy a module's file, and all modules of `sonolume.modules` and `.utils` (or of its own folder) that it imports.

    In the copies `from sonolume.modules.x import` reads `from .x import`.
    """
    text = source.read_text(encoding="utf-8")
    target = folder / source.name
    target.write_text(IMPORT.sub(r"from .\2 import", text), encoding="utf-8")
    for layer, name in IMPORT.findall(text):
        if not (folder / f"{name}.py").exists():
            place = Path(__file__).parents[1] / layer if layer else source.parent  # this file is in modules/
            copy_code(place / f"{name}.py", folder)
