"""Load the dataclass of a recipe from a config file and overrides; a mistake is one line. Imports no torch.

config = load_config(Path("egs/tta/audioldm/exp_config.json"), ["train.batch_size=4"])
"""

import difflib
import functools
import importlib
import os
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sonolume.config import sources
from sonolume.utils.errors import ConfigError

REQUIRED = ("exp_name", "dataset", "model")  # no defaults: two runs must not share a folder by accident
LARGEST_NUMBER = 1e12  # sections have narrower limits
LONGEST_LIST = 64  # of numbers
MOST_INTERPOLATIONS = 16  # in texts that have several; each text can repeat others that repeat further ones
NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Load, merge and check the `Config` of the recipe named in the file.

    Raises:
        UserError: the file or one of its bases cannot be read.
        ConfigError: `FILE: full.key: mistake`, FILE being the one that contains the mistake.
    """
    return merge([*sources.read(Path(path)), *sources.overrides(overrides)])


def merge(given: Sequence[sources.Source]) -> Any:
    """Check the sources of a config, files (the deepest base first) and overrides, one by one and merge them.

    Older key names in them are replaced in place.
    """
    files = [source for source in given if source.name != sources.COMMAND_LINE]
    if any("recipe" in source.content for source in given[len(files) :]):
        raise ConfigError(f"{sources.COMMAND_LINE}: recipe cannot be overridden: choose another --config")
    config_class, name = recipe_module(recipe_of(files)).Config, files[-1].name
    for source in given:
        sources.rename(source.content, getattr(config_class, "RENAMED", {}))
        check(source.content, config_class, f"{source.name}: ")
    _check_interpolations([source.content for source in given], name)
    for key in REQUIRED:
        if not any(key in source.content for source in given):
            raise ConfigError(f"{name}: {key}: missing{' section' if key == 'model' else ''}")
    merged = _schema(config_class)
    try:  # sections merge, lists replace; `__post_init__` checks values against each other
        merged = OmegaConf.merge(merged, *(source.content for source in given))
        OmegaConf.resolve(merged)
        return OmegaConf.to_object(merged)
    except ConfigError as error:
        where = sources.COMMAND_LINE if len(files) < len(given) and _is_valid(files) else name
        raise ConfigError(f"{where}: {error}") from None
    except OmegaConfBaseException as error:
        key = error.full_key or _first_unresolved(merged)
        raise ConfigError(f"{name}: {key}: {sources.plain_message(error)}") from None


@functools.cache
def _schema(config_class: type) -> Any:
    """The defaults of a recipe as a typed section, which takes longer than all the rest; merging copies it."""
    return OmegaConf.structured(config_class)


def _is_valid(given: Sequence[sources.Source]) -> bool:
    try:
        merge(given)
    except ConfigError:
        return False
    return True


def _check_interpolations(content: Any, name: str) -> None:
    """Raise a ConfigError for texts that could repeat each other without end when they are resolved."""
    texts, values = [], [content]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):  # repeated as a whole
            values += [item for item in value if not isinstance(item, str)]
            texts.append("".join(item for item in value if isinstance(item, str)))
        elif isinstance(value, str):
            texts.append(value)
    if sum(count for text in texts if (count := text.count("${")) > 1) > MOST_INTERPOLATIONS:
        raise ConfigError(f"{name}: too many interpolations ${{...}}: texts and lists with several of them may have "
                          f"{MOST_INTERPOLATIONS} together")  # fmt: skip


def _first_unresolved(section: Any, prefix: str = "") -> str:
    """The dotted key of the first interpolation that cannot be resolved, which OmegaConf does not always name."""
    for key in section:
        try:
            value = None if OmegaConf.is_missing(section, key) else section[key]
        except OmegaConfBaseException:
            return f"{prefix}{key}"
        if isinstance(value, DictConfig) and (found := _first_unresolved(value, f"{prefix}{key}.")):
            return found
    return ""


def recipes() -> list[str]:
    """List every TASK/RECIPE that has a schema."""
    folder = Path(__file__).parent
    return sorted(f"{file.parent.name}/{file.stem}" for file in folder.glob("*/*.py") if file.stem != "__init__")


def recipe_module(recipe: str) -> ModuleType:
    """Import the config module of a recipe."""
    return importlib.import_module("sonolume.config." + recipe.replace("/", "."))


def recipe_of(files: Sequence[sources.Source]) -> str:
    """Find the TASK/RECIPE in the files of a config, the deepest base first; a ConfigError if missing or unknown."""
    name, known = files[-1].name, f"(there are: {', '.join(recipes())})"
    named = [str(source.content["recipe"]) for source in files if "recipe" in source.content]
    if not named:
        raise ConfigError(f'{name}: recipe: missing, for example "recipe": "tta/audioldm" {known}')
    if named[-1] not in recipes():
        raise ConfigError(f"{name}: recipe: no recipe '{named[-1]}' {known}")
    return named[-1]


def check(content: Mapping[str, Any], schema: type, prefix: str) -> None:
    """Check plain content before OmegaConf, which accepts "12" as an integer and names neither file nor nearest key.

    Raises:
        ConfigError: `prefix` (such as "FILE: train.") + `key: mistake`, for the first mistake in a section.
    """
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
        if len(value) > LONGEST_LIST and typing.get_args(hint)[0] is not str:
            raise ConfigError(f"{where}: needs a list of at most {LONGEST_LIST}, got {len(value)}")
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
    elif isinstance(value, str) and not _is_encodable(value):
        raise ConfigError(f"{where}: contains a character that no file name or text can hold, got {value!r}")
    elif isinstance(value, int | float) and hint in (int, float) and abs(value) > LARGEST_NUMBER:
        raise ConfigError(f"{where}: needs a number of at most {LARGEST_NUMBER:g} in size")


def _is_a(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max  # finite, also an integer
    return isinstance(value, (str, int, float) if kind is str else kind)  # devices: 2 means "2"


def _is_encodable(text: str) -> bool:
    """Whether a text can be part of a path: no NUL, no lone surrogate except those of undecodable bytes."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _show(value: Any) -> str:
    """Describe a value by its type and its JSON notation."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping | list):
        return "a list [...]" if isinstance(value, list) else "a section {...}"
    return f"the text '{value}'" if isinstance(value, str) else f"the number {value}"
