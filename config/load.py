"""Load the dataclass of a recipe from a config file and overrides; a mistake is one line. Imports no torch.

config = load_config(Path("egs/tta/audioldm/exp_config.json"), ["train.batch_size=4"])
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sonolume.config import schema, sources
from sonolume.utils.errors import ConfigError

REQUIRED = ("exp_name", "dataset", "model")  # no defaults: two runs must not share a folder by accident


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Load, merge and check the `Config` of the recipe named in the file.

    Raises:
        ConfigError: `FILE: full.key: mistake`, FILE being the one that contains the mistake.
    """
    return merge([*sources.read(Path(path)), *sources.overrides(overrides)], sources.display_path(Path(path)))


def merge(given: Sequence[sources.Source], name: str) -> Any:
    """Check the sources of a config one by one and merge them; older key names in them are replaced in place.

    Args:
        given: files, the deepest base first, then overrides.
        name: config file, for mistakes that belong to no single source.
    """
    config_class = recipe_module(recipe_of(given, name), name).Config
    if any("recipe" in source.content for source in given if source.name == sources.COMMAND_LINE):
        raise ConfigError(f"{sources.COMMAND_LINE}: recipe cannot be overridden: choose another --config")
    for source in given:
        sources.rename(source.content, getattr(config_class, "RENAMED", {}))
        schema.check(source.content, config_class, f"{source.name}: ")
    for key in REQUIRED:
        if not any(key in source.content for source in given):
            raise ConfigError(f"{name}: {key}: missing{' section' if key == 'model' else ''}")
    try:  # sections merge, lists replace; `__post_init__` checks values against each other
        merged = OmegaConf.merge(OmegaConf.structured(config_class), *(source.content for source in given))
        OmegaConf.resolve(merged)
        return OmegaConf.to_object(merged)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    except OmegaConfBaseException as error:
        message, _, rest = str(error).partition("\n    full_key: ")
        raise ConfigError(f"{name}: {rest.split()[0]}: {message}" if rest else f"{name}: {message}") from None


def recipes() -> list[str]:
    """List every TASK/RECIPE that has a schema."""
    folder = Path(__file__).parent
    return sorted(f"{file.parent.name}/{file.stem}" for file in folder.glob("*/*.py") if file.stem != "__init__")


def recipe_module(recipe: str, source: str) -> ModuleType:
    """Import the config module of a recipe; a ConfigError names the `source`, the file with an unknown name."""
    if recipe not in recipes():
        raise ConfigError(f"{source}: recipe: no recipe '{recipe}' (there are: {', '.join(recipes())})")
    return importlib.import_module("sonolume.config." + recipe.replace("/", "."))


def recipe_of(given: Sequence[sources.Source], name: str) -> str:
    """Find the TASK/RECIPE of a config without checking anything else."""
    files = [source for source in given if source.name != sources.COMMAND_LINE]
    named = [source.content["recipe"] for source in files if "recipe" in source.content]
    if not named:
        example = '"recipe": "tta/audioldm"'
        raise ConfigError(f"{name}: recipe: missing, for example {example} (there are: {', '.join(recipes())})")
    return str(named[-1])
