"""Find the code of a recipe by its name; there is no registry."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

from sonolume.utils import cli


def recipe_code(recipe: str, part: str, without: tuple[str, ...] = ()) -> ModuleType:
    """Import one part of TASK/RECIPE: models/TASK/RECIPE/{part}.py, or models/TASK/RECIPE.py for a one-file recipe.

    Args:
        without: packages that libraries import where they are installed, and that this process does not need.
    """
    name = f"sonolume.models.{recipe.replace('/', '.')}"
    with _without_collections(), _hidden(without):
        package = importlib.import_module(name)
        found = importlib.import_module(f"{name}.{part}") if hasattr(package, "__path__") else package
    cli.raise_if_interrupted()
    return found


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Pause garbage collection, which takes a sixth of the time of importing torch and diffusers and finds nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """Let packages that are not imported yet look as if they were not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: Python's mark of what cannot be imported
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
