"""Sources of a config: a chain of JSON files, a Hydra YAML, the command line. All are read as plain content."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import json5

from sonolume.utils.errors import ConfigError
from sonolume.utils.files import read_text

COMMAND_LINE = "command line"  # name of the source of overrides
MOST_LEVELS, MOST_VALUES = 30, 20_000  # levels of nested content, and values on one level; configs have 5 and 30
LONGEST_FILE, LONGEST_OVERRIDE = 100_000, 10_000  # characters; parsers take minutes for millions
TOO_DEEP = "sections or lists are nested too deeply, or too large"
CONFIG_FILE = "a config file, such as exp_config.json"
TEXT_OR_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*"?)|//[^\n\r\u2028\u2029]*', re.DOTALL)  # in JSON with // comments


@dataclass
class Source:
    """Plain content and its name for error messages."""

    name: str
    content: dict[str, Any]


def read(path: Path) -> list[Source]:
    """Read a file and the chain of its `base_config`, the deepest base first; Hydra reads .yaml, all else is JSON5."""
    path = _shorten(path)
    if path.suffix == ".yml":
        raise ConfigError(f"{path}: Hydra reads only files that end in .yaml: rename it")
    return [_yaml(path)] if path.suffix == ".yaml" else _json_chain(path, [])


def _shorten(path: Path) -> Path:
    """Make a path inside the working directory relative to it, and any other one absolute."""
    absolute = Path.cwd() / path
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def rename(content: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Move values of older keys to their present names, in place.

    Args:
        renamed: old -> new dotted key, both in the same section; `Config.RENAMED` of a recipe.
    """
    for old, new in renamed.items():
        *path, name = old.split(".")
        section: Any = content
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and name in section:
            section.setdefault(new.rpartition(".")[2], section.pop(name))


def _json_chain(path: Path, children: list[Path]) -> list[Source]:
    if path.resolve() in children:
        cycle = [*children[children.index(path.resolve()) :], path.resolve()]
        raise ConfigError(f"{path}: base_config is circular: {' -> '.join(str(_shorten(one)) for one in cycle)}")
    content = _json(path)
    base = content.pop("base_config", None)
    if base is None:
        return [Source(str(path), content)]
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base_config: must be a path relative to this file, got {base!r}")
    parent = _shorten(path.parent / base)
    if not parent.exists():
        raise ConfigError(f"{path}: base_config: no such file: {base} (it is relative to this file)")
    return [*_json_chain(parent, [*children, path.resolve()]), Source(str(path), content)]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = _parse(_text(path))
    except RecursionError:
        raise ConfigError(f"{path}: {TOO_DEEP}") from None
    except ValueError as error:  # <string>:3 Unexpected "}" at column 4
        match = re.fullmatch(r"<string>:(\d+) (.*) at column (\d+)", str(error), re.DOTALL)
        reason = f"{match[1]}:{match[3]}: {match[2]}" if match else " " + str(error).replace("<string>:", "line ")
        if reason.endswith('"""'):  # a key or text that follows a value
            reason = reason.replace('"""', "'\"'; is a comma missing before it?")
        raise ConfigError(f"{path}:{reason}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be one object {{...}}")
    return content


def _parse(text: str) -> Any:
    """Parse JSON5; JSON with // comments, as in this repository, with Python's own parser, which is 100 times faster.

    Raises:
        ValueError: of the JSON5 parser, with the place of the mistake.
        RecursionError: the content is nested too deeply.
    """
    try:
        plain = TEXT_OR_COMMENT.sub(lambda found: found[1] or "", text)
        return json.loads(plain, object_pairs_hook=_section)
    except (ValueError, RecursionError):
        return json5.loads(text, allow_duplicate_keys=False)


def _section(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a section; a ValueError if a key is there twice."""
    section = dict(pairs)
    if len(section) < len(pairs):
        raise ValueError("a key is there twice")
    return section


def _text(path: Path) -> str:
    """Read a config file; a UserError names one that is missing, not UTF-8 or far too long."""
    text = read_text(path, CONFIG_FILE)
    if len(text) > LONGEST_FILE:
        raise ConfigError(f"{path}: has {len(text)} characters, a config at most {LONGEST_FILE}: name another file")
    return text


def _yaml(path: Path) -> Source:
    """Compose the file with Hydra, so that `defaults:` groups in its folder work; Hydra's own overrides are unused."""
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = _yaml_content(path)
    if isinstance(own, dict) and not isinstance(own.get("hydra", {}), dict):  # on which Hydra fails
        raise ConfigError(f"{path}: hydra: needs a section {{...}}: it is Hydra's own, leave it out")
    folder = str((Path.cwd() / path).parent)
    try:
        with _check_loaded(), warnings.catch_warnings(), initialize_config_dir(folder, version_base="1.3"):
            warnings.simplefilter("error", UserWarning)  # a list of defaults without _self_
            content = OmegaConf.to_container(compose(config_name=path.stem), resolve=False)
    except RecursionError:
        raise ConfigError(f"{path}: {TOO_DEEP}") from None
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, UserWarning) as error:
        reason = f"{plain_message(error)} {plain_message(error.__cause__)}".strip() or type(error).__name__
        raise ConfigError(f"{path}: Hydra cannot compose it: {reason}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must have keys and values at its top level")
    return Source(str(path), {str(key): value for key, value in content.items()})


@contextmanager
def _check_loaded() -> Iterator[None]:
    """Check every file that Hydra reads inside the block, such as those that `defaults:` name.

    Hydra calls OmegaConf.load, which repeats content for every alias, thus without end.
    """
    from omegaconf import OmegaConf

    original = OmegaConf.load

    def load(file: Any) -> Any:
        path = _shorten(Path(file.name))
        _yaml_content(path)
        with _yaml_errors(path):
            return original(file)

    OmegaConf.load = load
    try:
        yield
    finally:
        OmegaConf.load = original


def _yaml_content(path: Path) -> Any:
    """Parse a YAML file; a UserError names one that cannot be read, a ConfigError one that is too large."""
    import yaml

    with _yaml_errors(path):
        content = yaml.safe_load(_text(path))
    _check_size(content, path)
    return content


@contextmanager
def _yaml_errors(path: Path) -> Iterator[None]:
    """Turn errors of the YAML parser into ConfigErrors that name the file, and the place of the mistake in it."""
    import yaml

    try:
        yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}:" if mark else ":"
        raise ConfigError(f"{path}{place} {error.problem}") from None
    except RecursionError:
        raise ConfigError(f"{path}: {TOO_DEEP}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an integer of more than 4,300 digits
        raise ConfigError(f"{path}: Hydra cannot compose it: {plain_message(error)}") from None


def _check_size(content: Any, path: Path) -> None:
    """Raise a ConfigError for content that OmegaConf does not cope with; aliases can repeat it without end."""
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [value for one in level for value in _inside(one)]
        if not level:
            return
        if len(level) > MOST_VALUES:
            break
    raise ConfigError(f"{path}: {TOO_DEEP}")


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def plain_message(error: BaseException | None) -> str:
    """The message of Hydra or OmegaConf in one line, without the trailer `full_key: ... object_type=...`."""
    return " ".join(str(error or "").partition("\n    full_key:")[0].split())


def overrides(arguments: Sequence[str]) -> list[Source]:
    """Parse each `train.batch_size=4` (Hydra's grammar, a leading `+` is ignored) to nested content."""
    if not arguments:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, sources = OverridesParser.create(), []
    for argument in arguments:
        where = f"{COMMAND_LINE}: {argument!r:.2000}"
        if len(argument) > LONGEST_OVERRIDE:
            raise ConfigError(f"{where}: has {len(argument)} characters: at most {LONGEST_OVERRIDE} can be given")
        try:
            override = parser.parse_override(argument)
        except RecursionError:
            raise ConfigError(f"{where}: {TOO_DEEP}") from None
        except (HydraException, ValueError) as error:  # ValueError: an integer of more than 4,300 digits
            raise ConfigError(f"{where} is not key=value: {plain_message(error)}") from None
        if override.is_delete() or override.package is not None or not override.key_or_group:
            raise ConfigError(f"{where}: only key=value can be given")
        if override.is_sweep_override():
            raise ConfigError(f"{where}: one value only; write a list as [a,b], a text with a comma as '\"a,b\"'")
        content: Any = override.value()
        for part in reversed(override.key_or_group.split(".")):
            content = {part: content}
        sources.append(Source(COMMAND_LINE, content))
    return sources
