"""Command-line flags as typed dataclasses: a field is a flag, its default the flag's default, its type the flag's type.

    @dataclass(kw_only=True)
    class InferenceOptions(Options):
        text: list[str] = option(help="what should be heard; may be given several times", metavar="TEXT")
        duration: float | None = option(help="length of the sound (default: one clip)", low=0.5, high=600, unit="s")

A recipe declares its own beside its config; library functions take such an object, never an `argparse.Namespace`.
"""

import argparse
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Self

from sonolume.utils.errors import UserError

LARGEST_SEED = 2**62  # torch takes 64 bits; the samples of one run count on from the seed
SPAN = re.compile(r"(\d{1,6}(?:\.\d*)?|\.\d+)-(\d{1,6}(?:\.\d*)?|\.\d+)?")
KEY = "option"  # of a field's metadata

Spans = list[tuple[float, float | None]]  # start and end in seconds; None is the end of the sound


@dataclass(frozen=True)
class Flag:
    """What a flag says of itself beyond its name, type and default; see `option`."""

    help: str
    metavar: str | None
    choices: tuple[str, ...] | None
    low: float | None
    high: float | None
    above: float | None
    multiple: int | None
    unit: str
    must_exist: bool
    needs: tuple[str, ...]
    parse: Callable[[str], Any] | None


def option(
    default: Any = MISSING,
    *,
    help: str,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    multiple: int | None = None,
    unit: str = "",
    must_exist: bool = False,
    needs: tuple[str, ...] = (),
    parse: Callable[[str], Any] | None = None,
) -> Any:
    """A dataclass field that is a command-line flag.

    Args:
        default: left out, it is None, False for a `bool`, and an empty list for `list[X]`, which may be repeated.
        help: one line; the default is appended where it is a number, a text or a path.
        low, high, above: allowed numbers: low <= value <= high, value > above.
        multiple: the number must be divisible by it.
        unit: of the number, for messages.
        must_exist: the path must be there.
        needs: other flags, one of which must be given with this one.
        parse: turns the text into the value, instead of the type; a list is extended by what it returns.
    """
    flag = Flag(help, metavar, choices, low, high, above, multiple, unit, must_exist, needs, parse)
    if default is MISSING:
        return field(default_factory=_Unset(), metadata={KEY: flag})
    return field(default=default, metadata={KEY: flag})


class _Unset:
    """Stands for the natural default of a field's type until `Options.__post_init__` knows the type."""

    def __call__(self) -> Any:
        return self


@dataclass(kw_only=True)
class Options:
    """Base of all groups of flags. Subclasses inherit the flags of several groups and add their own.

    Raises:
        UserError: a number is out of its range, or a path is not there; names the flag.
    """

    def __post_init__(self) -> None:
        for name, hint, flag in declared(type(self)):
            if isinstance(getattr(self, name), _Unset):
                setattr(self, name, _natural_default(hint))
            _check(name, getattr(self, name), flag)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declare all flags; one that is not given stays absent from the namespace."""
        for name, hint, flag in declared(cls):
            parser.add_argument(f"--{name}", **_argument(cls, name, hint, flag))

    @classmethod
    def from_arguments(cls, namespace: argparse.Namespace) -> Self:
        """The flags that were given, and the defaults of all others.

        Raises:
            UserError: a flag that needs another one stands alone, or a value cannot be used.
        """
        given = {name: getattr(namespace, name) for name, _, _ in declared(cls) if hasattr(namespace, name)}
        for name, _, flag in declared(cls):
            if name in given and flag.needs and not given.keys() & set(flag.needs):
                raise UserError(f"--{name} needs --{' or --'.join(flag.needs)}")
        return cls(**given)


def declared(options: type[Options]) -> list[tuple[str, Any, Flag]]:
    """(name, type, flag) of every field that `option` made."""
    hints = typing.get_type_hints(options)
    return [(one.name, hints[one.name], one.metadata[KEY]) for one in fields(options) if KEY in one.metadata]


def parse_spans(text: str) -> Spans:
    """Parse "1.5-3,4-" -> [(1.5, 3.0), (4.0, None)], in seconds.

    Raises:
        argparse.ArgumentTypeError: it is not written so, or a span is empty or reversed.
    """
    found = [SPAN.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not written as START-END or START- in seconds, like 1.5-3.0")
    spans = [(float(match[1]), float(match[2]) if match[2] else None) for match in found if match]
    for start, end in spans:
        if end is not None and end <= start:
            what = "empty" if end == start else "reversed"
            raise argparse.ArgumentTypeError(f"{start:g}-{end:g} is {what}: its end must be after its start")
    return spans


def _inner(hint: Any) -> Any:
    """X of `X | None`; the hint itself otherwise."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _natural_default(hint: Any) -> Any:
    if hint is bool:
        return False
    return [] if typing.get_origin(hint) is list else None


def _argument(cls: type, name: str, hint: Any, flag: Flag) -> dict[str, Any]:
    """Keyword arguments of `add_argument`."""
    inner, origin = _inner(hint), typing.get_origin(_inner(hint))
    found: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(cls, name, flag)}
    if inner is bool:
        return found | {"action": "store_true"}
    if origin is list:
        found |= {"action": "extend" if flag.parse else "append", "type": flag.parse or typing.get_args(inner)[0]}
    elif origin is tuple:
        kinds = typing.get_args(inner)
        found |= {"nargs": len(kinds), "type": flag.parse or kinds[0]}
    else:
        found["type"] = flag.parse or inner
    if isinstance(inner, type) and issubclass(inner, Enum):
        found["choices"] = list(inner)
    metavar = {"metavar": flag.metavar} if flag.metavar else {}
    return found | metavar | ({"choices": flag.choices} if flag.choices else {})


def _help(cls: type, name: str, flag: Flag) -> str:
    """The help with the default, which argparse itself cannot append while flags that are not given stay absent."""
    text = flag.help.replace("%", "%%")
    default = next(one.default for one in fields(cls) if one.name == name)
    if "(default" in text or default is None or isinstance(default, bool) or default is MISSING or default == "":
        return text
    shown = " ".join(f"{part:g}" for part in default) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})"


def _check(name: str, value: Any, flag: Flag) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(name, value, flag)
    elif flag.must_exist:
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and not path.exists():
                raise UserError(f"--{name} {path}: no such file or folder")


def _check_number(name: str, value: float, flag: Flag) -> None:
    unit = f" {flag.unit}" if flag.unit else ""
    if not math.isfinite(value):
        raise UserError(f"--{name} must be a finite number, got {value}")
    low, high = flag.low, flag.high
    if (low is not None and value < low) or (high is not None and value > high):
        if low is None or high is None:
            bound = f"at least {low:g}" if low is not None else f"at most {high:g}"
            raise UserError(f"--{name} must be {bound}{unit}, got {value:g}")
        raise UserError(f"--{name} must be from {low:g} to {high:g}{unit}, got {value:g}")
    if flag.above is not None and value <= flag.above:
        raise UserError(f"--{name} must be above {flag.above:g}{unit}, got {value:g}")
    if flag.multiple is not None and value % flag.multiple:
        raise UserError(f"--{name} must be a multiple of {flag.multiple}, got {value:g}")
