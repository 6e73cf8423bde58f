"""Find the code of a recipe by its name; there is no registry."""

import importlib
from types import ModuleType


def recipe_code(recipe: str, part: str) -> ModuleType:
    """Import one part of TASK/RECIPE: models/TASK/RECIPE/{part}.py, or models/TASK/RECIPE.py for a one-file recipe."""
    name = f"sonolume.models.{recipe.replace('/', '.')}"
    package = importlib.import_module(name)
    return importlib.import_module(f"{name}.{part}") if hasattr(package, "__path__") else package
