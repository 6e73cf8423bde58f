"""Converters of official checkpoints: each public function of a file in this folder is a command of `bins/convert.py`.

`--help` lists the first line of its docstring, the type of its argument `options` declares its flags, and an underscore
in its name is a hyphen on the command line. Torch and models/convert/ are imported inside the function only.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolume.config.options import Options, option


@dataclass(kw_only=True)
class ConverterOptions(Options):
    """Arguments of most converters."""

    source: Path = option(help="the published file, or the folder that contains it", metavar="SOURCE", positional=True)
    folder: Path = option(help="new folder of the converted model", metavar="FOLDER", positional=True, is_output=True)


def commands() -> dict[str, tuple[Callable[[Any], None], type[Options]]]:
    """Import all converters: their names on the command line -> function and type of its options."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = [one for module in modules for name, one in inspect.getmembers(module, inspect.isfunction)
             if one.__module__ == module.__name__ and not name.startswith("_")]  # fmt: skip
    return {one.__name__.replace("_", "-"): (one, inspect.get_annotations(one)["options"]) for one in found}
