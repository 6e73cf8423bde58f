"""The command line of one recipe: `--config` first, then the flags that this recipe declares, then `key=value`.

Imports no torch, so that `--help` and every mistake are answered at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolume.config import options as shared
from sonolume.config import sources
from sonolume.config.load import load_config, recipe_module, recipe_of, recipes
from sonolume.utils import cli
from sonolume.utils.errors import UserError
from sonolume.utils.options import Options

CONFIG_HELP = "the recipe's json or yaml file"


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    config: Any
    """the recipe's `Config`"""
    options: Any
    """an object of the recipe's options class"""
    given: list[sources.Source]
    """what the config was read from: files, the deepest first, then overrides"""
    path: Path
    """the config file"""


def parse(script: str, kind: str, description: str, argv: list[str]) -> Command:
    """Parse the command line of a recipe.

    Args:
        script: name of the program in bins/.
        kind: name of the options class in the recipe's config module, such as "InferenceOptions".
        description: what `--help` says first.

    Raises:
        UserError: wrong usage, or the recipe has no such command.
        ConfigError: a config that cannot be read, or a wrong override.
    """
    first = cli.parser(_program(script), description, add_help=False)
    first.add_argument("--config", type=Path, metavar="FILE", help=CONFIG_HELP)
    path = first.parse_known_args(argv)[0].config
    if path is None:
        first.add_argument("-h", "--help", action="help", help="show this help message and exit")
        first.epilog = f"With --config FILE, --help lists the flags of that recipe. Recipes: {', '.join(recipes())}."
        first.parse_known_args(argv)
        first.error("the following arguments are required: --config")
    recipe = recipe_of(path)
    options = options_class(recipe, kind, path, script)
    parser = cli.parser(_program(script), f"{recipe}: {description}")
    shown = sources.shown(path).replace("%", "%%")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"{CONFIG_HELP} (default: {shown})")
    options.add_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config fields to change")
    namespace = parser.parse_args(argv)
    config = load_config(path, namespace.overrides)
    given = [*sources.read(path), *sources.overrides(namespace.overrides)]
    return Command(config, options.from_arguments(namespace), given, path)


def options_class(recipe: str, kind: str, path: Path, script: str) -> type[Options]:
    """The class of a recipe's flags: its own, else the shared one for preprocessing and training.

    Raises:
        UserError: the recipe has no such command.
    """
    module = recipe_module(recipe, str(path))
    found = getattr(module, kind, None) or getattr(shared, kind, None)
    if found is None:
        raise UserError(f"{recipe}: this recipe has no {script} command")
    return found


def _program(script: str) -> str:
    """The shell script that was called, else the program itself."""
    return os.environ.get("SONOLUME_COMMAND", script)
