"""Converters of official checkpoints: each file NAME.py of this folder adds the command `bins/convert.py NAME`.

A file has a docstring, whose first line `--help` lists, a dataclass `Options` with its flags, and `run(options)`, which
imports torch and models/convert/ only when it is called. An underscore in a name is a hyphen on the command line; names
that begin with one are shared helpers.
"""

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sonolume.utils import options as flags
from sonolume.utils.options import option


@dataclass(kw_only=True)
class ConverterOptions(flags.Options):
    """Arguments of most converters."""

    source: Path = option(help="the published file, or the folder that contains it", metavar="SOURCE", positional=True)
    folder: Path = option(help="new folder of the converted model", metavar="FOLDER", positional=True)


def modules(package: ModuleType) -> dict[str, ModuleType]:
    """Import the modules of a package, by their names on the command line."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg]
    public = [name for name in names if not name.startswith("_")]
    return {name.replace("_", "-"): importlib.import_module(f"{package.__name__}.{name}") for name in public}


def title(module: ModuleType) -> str:
    """The first line of a module's docstring, without the period."""
    return (module.__doc__ or "").partition("\n")[0].rstrip(".")
