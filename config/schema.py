"""Check the plain content of one config file against a dataclass, before merging.

OmegaConf alone accepts "12" as an integer and names neither the file nor the nearest correct key.
"""

import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from sonolume.utils.errors import ConfigError

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check(content: Mapping[str, Any], schema: type, prefix: str) -> None:
    """Raise a ConfigError, `prefix` (such as "FILE: train.") + `key: mistake`, for the first mistake in a section."""
    hints = typing.get_type_hints(schema)
    for name, value in content.items():
        if name not in hints:
            raise ConfigError(f"{prefix}{name}: no such field{_did_you_mean(str(name), schema)}")
        _check_value(value, hints[name], f"{prefix}{name}")


def _did_you_mean(name: str, schema: type) -> str:
    """Suggest the nearest field of this section, else of its subsections (`lrr` in train: 'adam.lr'), else list all."""
    inside = {path.rpartition(".")[2]: path for path in reversed(_paths(schema))}
    direct = list(typing.get_type_hints(schema))
    near = difflib.get_close_matches(name, direct, n=1) or difflib.get_close_matches(name, inside, n=1)
    return f" (did you mean '{inside[near[0]]}'?)" if near else f" (there are: {', '.join(direct)})"


def _paths(schema: type) -> list[str]:
    """List the fields and then those of all subsections, as dotted paths."""
    hints = typing.get_type_hints(schema)
    sections = [(name, typing.cast(type, hint)) for name, hint in hints.items() if is_dataclass(hint)]
    return [*hints, *(f"{name}.{path}" for name, section in sections for path in _paths(section))]


def _check_value(value: Any, hint: Any, where: str) -> None:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: needs a section {{...}}, got {_show(value)}")
        check(value, typing.cast(type, hint), f"{where}.")
    elif isinstance(value, str) and "${" in value:
        return  # an interpolation: OmegaConf resolves and converts it
    elif typing.get_origin(hint) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: needs a list [...], got {_show(value)}")
        for i, item in enumerate(value):
            _check_value(item, typing.get_args(hint)[0], f"{where}[{i}]")
    elif typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is not None:
            (inner,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
            _check_value(value, inner, where)
    elif issubclass(hint, Enum):
        if value not in list(hint.__members__):
            raise ConfigError(f"{where}: needs one of {', '.join(hint.__members__)}, got {_show(value)}")
    elif not _is_a(value, hint):
        raise ConfigError(f"{where}: needs {NAMES[hint]}, got {_show(value)}")


def _is_a(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, (str, int, float) if kind is str else kind)  # devices: 2 means "2"


def _show(value: Any) -> str:
    """Describe a value by its type and its JSON notation."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping | list):
        return "a list [...]" if isinstance(value, list) else "a section {...}"
    return f"the text '{value}'" if isinstance(value, str) else f"the number {value}"
