"""Code that travels with a saved model: a module and the modules it imports, side by side in one folder."""

import importlib.util
import re
from pathlib import Path

IMPORT = re.compile(r"^from (sonolume\.modules)?\.(\w+) import", re.MULTILINE)


def copy_code(source: Path, folder: Path) -> None:
    """Copy a module's file and, beside it, all modules of `sonolume.modules` (or of its own folder) that it imports.

    In the copies `from sonolume.modules.x import` reads `from .x import`, so they need no sonolume.
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
