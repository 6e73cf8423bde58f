"""Converters of official checkpoints: each file NAME.py of this folder adds the command `bins/convert.py NAME`.

A file has a docstring, whose first line `--help` lists, a dataclass `Options` with its flags, and `run(options)`, which
imports torch and models/convert/ only when it is called. An underscore in a name is a hyphen on the command line.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sonolume.config import options as flags
from sonolume.config.options import option


@dataclass(kw_only=True)
class ConverterOptions(flags.Options):
    """Arguments of most converters."""

    source: Path = option(help="the published file, or the folder that contains it", metavar="SOURCE", positional=True)
    folder: Path = option(help="new folder of the converted model", metavar="FOLDER", positional=True)


def modules() -> dict[str, ModuleType]:
    """Import all converters, by their names on the command line."""
    names = [found.name for found in pkgutil.iter_modules(__path__)]
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
