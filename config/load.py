"""From a config file and overrides to the recipe's dataclass, or one line that says what to mend. Imports no torch.

config = load_config(Path("egs/tta/audioldm/exp_config.json"), ["train.batch_size=4"])
"""

import importlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sonolume.config import schema, sources
from sonolume.utils import files
from sonolume.utils.errors import ConfigError

REQUIRED = ("exp_name", "dataset", "model")  # without defaults in a file: two runs must not share a folder by accident


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The `Config` of the recipe that the file names, cross-checked.

    Raises:
        ConfigError: `FILE: full.key: what is wrong`, FILE being the one that holds the mistake.
    """
    chain = sources.read(Path(path))
    name = sources.shown(Path(path))
    config_class = recipe_module(_recipe(chain, name), name).Config
    given = sources.overrides(overrides)
    if any("recipe" in source.content for source in given):
        raise ConfigError("command line: recipe cannot be overridden: choose another --config")
    for source in [*chain, *given]:
        sources.rename(source.content, getattr(config_class, "RENAMED", {}))
        schema.check(source.content, config_class, source.name)
    for key in REQUIRED:
        if not any(key in source.content for source in [*chain, *given]):
            raise ConfigError(f"{name}: {key}: missing{_kind(config_class, key)}")
    return _merge(config_class, [*chain, *given], name)


def save_config(config: Any, path: str | Path) -> None:
    """Writes every value as JSON that `load_config` reads again."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    files.write_json(path, container)


def recipes() -> list[str]:
    """Every TASK/RECIPE that has a schema."""
    folder = Path(__file__).parent
    return sorted(f"{file.parent.name}/{file.stem}" for file in folder.glob("*/*.py") if file.stem != "__init__")


def recipe_module(recipe: str, source: str) -> ModuleType:
    """The schema's module: `Config`, `INFERENCE_FLAGS`. `source` names the file in the error."""
    if recipe not in recipes():
        raise ConfigError(f"{source}: recipe: no recipe '{recipe}' (there are: {', '.join(recipes())})")
    return importlib.import_module("sonolume.config." + recipe.replace("/", "."))


def recipe_of(path: str | Path) -> str:
    """TASK/RECIPE of a config file, which is otherwise not checked.

    Raises:
        ConfigError: the file cannot be read or names no recipe.
    """
    return _recipe(sources.read(Path(path)), sources.shown(Path(path)))


def _recipe(chain: list[sources.Source], name: str) -> str:
    named = [source.content["recipe"] for source in chain if "recipe" in source.content]
    if not named:
        raise ConfigError(
            f'{name}: recipe: missing, for example "recipe": "tta/audioldm" (there are: {", ".join(recipes())})'
        )
    return str(named[-1])


def _kind(config_class: type, key: str) -> str:
    is_section = any(
        field.name == key and hasattr(field.type, "__dataclass_fields__") for field in fields(config_class)
    )
    return " section" if is_section else ""


def _merge(config_class: type, chain: list[sources.Source], name: str) -> Any:
    """Sections merge, lists replace; interpolations are resolved; `__post_init__` checks what belongs together."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(config_class), *(source.content for source in chain))
        OmegaConf.resolve(merged)
        return OmegaConf.to_object(merged)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except OmegaConfBaseException as error:
        message, _, rest = str(error).partition("\n    full_key: ")
        raise ConfigError(f"{name}: {rest.split()[0]}: {message}" if rest else f"{name}: {message}") from None
