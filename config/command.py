"""The command line of one recipe: its config first, then the flags declared by this recipe and `key=value` overrides.

Imports no torch, so that `--help` and every mistake are answered at once.
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolume.config import options as shared
from sonolume.config import shipped, sources
from sonolume.config.load import merge, recipe_module, recipe_of, recipes
from sonolume.config.options import Options, declared
from sonolume.utils import cli, paths
from sonolume.utils.errors import UserError
from sonolume.utils.text import has_surrogates

USAGE = "%(prog)s [--config FILE] [--flag VALUE ...] [key=value ...]"
USAGE_WITHOUT_CONFIG = USAGE.replace("[--config FILE]", "RECIPE | --config FILE")


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    config: Any  # the recipe's `Config`
    options: Any  # an instance of the recipe's options class
    given: list[sources.Source]  # of the config: its files, the deepest base first, then the overrides
    path: Path  # the config file


def parse(script: str, kind: str, description: str, argv: list[str]) -> Command:
    """Parse the command line of bins/{script}.py; `kind` is the recipe's options class, such as "InferenceOptions".

    A first word such as tta/audioldm names a config in egs/, unless another --config follows.
    """
    program = cli.program(script)
    if argv and not argv[0].startswith("-") and "=" not in argv[0]:
        argv = ["--config", str(shipped.find(argv[0], script)), *argv[1:]]
    path = _config_file(program, kind, description, argv)
    files = sources.read(path)
    recipe, name = recipe_of(files), files[-1].name
    options = _options_class(recipe, kind)
    if options is None:
        raise UserError(f"{name}: {recipe} has no {script} command (there is one of {', '.join(_recipes_with(kind))})")
    parser = cli.parser(program, f"{recipe}: {description}", USAGE)
    shown = name.replace("%", "%%")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"config file of a recipe (here: {shown})")
    options.add_arguments(parser)
    example = "config fields to change, such as train.batch_size=4"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=example)
    namespace = parser.parse_args(argv)
    _check_overrides(namespace.overrides, argv, options, program)
    _check_encoding(namespace, program)
    given = [*files, *sources.overrides(namespace.overrides)]
    config = merge(given)
    _check_folders(config, name)
    return Command(config, options.from_arguments(namespace), given, path)


def _check_folders(config: Any, name: str) -> None:
    """Raise a UserError if a folder that the config names cannot be one, before a long run finds out."""
    for key in ("log_dir", "cache_dir", "preprocess.processed_dir"):
        value = functools.reduce(lambda section, part: getattr(section, part, None), key.split("."), config)
        if value is not None:
            paths.check_folder(paths.resolve(value, f"{name}: {key}"), f"{name}: {key}")
    paths.check_folder(config.run_dir, f"{name}: exp_name")


def _config_file(program: str, kind: str, description: str, argv: list[str]) -> Path:
    """Find `--config`, which decides all other flags; without it, answer `--help` with the list of recipes."""
    parser = cli.parser(program, description, USAGE_WITHOUT_CONFIG, add_help=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="config file of a recipe: json, or yaml for Hydra")
    path = parser.parse_known_args(argv)[0].config
    if path is None:
        parser.add_argument("-h", "--help", action="help", help="after RECIPE or --config: list that recipe's flags")
        parser.epilog = f"recipes: {', '.join(_recipes_with(kind))}"
        parser.parse_known_args(argv)
        parser.error("no config: name a recipe first, such as tta/audioldm, or give --config FILE")
    return path


def _check_encoding(namespace: argparse.Namespace, program: str) -> None:
    """Raise a UserError for a text that is not UTF-8; names of files may be anything."""
    for name, value in vars(namespace).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and has_surrogates(text):
                flag = "" if name == "overrides" else f"--{name} "
                raise UserError(f"{program}: {flag}{text!r:.60}: not UTF-8: check the terminal's encoding (LANG)")


def _options_class(recipe: str, kind: str) -> type[Options] | None:
    """The recipe's own class, else the shared one for preprocessing and training, else None."""
    return getattr(recipe_module(recipe), kind, None) or getattr(shared, kind, None)


def _recipes_with(kind: str) -> list[str]:
    return [recipe for recipe in recipes() if _options_class(recipe, kind)]


def _check_overrides(overrides: Sequence[str], argv: list[str], options: type[Options], program: str) -> None:
    """Raise a UserError for a stray word, such as a second value after a flag, or a text without quotes."""
    for word in (word for word in overrides if "=" not in word):
        flags = [argument for argument in argv[: argv.index(word)] if argument.startswith("--")]
        if flags and flags[-1] in [f"--{flag.name}" for flag in declared(options) if flag.is_list]:
            raise UserError(f"{program}: unexpected {word!r}: {flags[-1]} takes one value, in quotes if it has spaces; "
                            f"write {flags[-1]} before each of several")  # fmt: skip
        raise UserError(f"{program}: unexpected {word!r}: config fields are changed by key=value")
