"""Command-line flags as typed dataclasses: the name, type and default of a field are those of the flag.

    @dataclass(kw_only=True)
    class InferenceOptions(Options):
        text: list[str] = option(help="description of the sound; may be given several times", metavar="TEXT")
        duration: float | None = option(help="length of the sound (default: one clip)", low=0.5, high=600, unit="s")

A subclass inherits flags, adds its own, and changes a default by a plain assignment: `batch_size: int = 16`.
Library functions take such an object, never an `argparse.Namespace`.
"""

import argparse
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from sonolume.utils.errors import UserError

LARGEST_SEED = 2**62  # torch takes 64 bits; the samples of one run count on from the seed
SPAN = re.compile(r"(\d{1,6}(?:\.\d*)?|\.\d+)-(\d{1,6}(?:\.\d*)?|\.\d+)?")
FLAG_KEY = "flag"  # in the metadata of a dataclass field

Spans = list[tuple[float, float | None]]  # start and end in seconds; None is the end of the sound


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Everything about a flag except its default."""

    help: str
    """one line; the default is appended where it is a number, a text or a path"""
    metavar: str | tuple[str, ...] | None = None
    choices: tuple[str, ...] | None = None
    low: float | None = None
    """smallest allowed number"""
    high: float | None = None
    """largest allowed number"""
    above: float | None = None
    """the number must be larger than this"""
    multiple: int | None = None
    """the number must be divisible by this"""
    unit: str = ""
    """unit of the number, for error messages"""
    must_exist: bool = False
    """the path must name a file or folder"""
    needs: tuple[str, ...] = ()
    """other flags, one of which must be given together with this one"""
    parse: Callable[[str], Any] | None = None
    """converts the text, instead of the type; a list is extended by the returned list"""
    positional: bool = False
    """an argument without a name on the command line; required, a list takes all that remain"""
    name: str = ""
    type: Any = None

    @property
    def value_type(self) -> Any:
        """X of a field annotated `X | None`, else the annotation itself."""
        if typing.get_origin(self.type) in (types.UnionType, typing.Union):
            return next(arg for arg in typing.get_args(self.type) if arg is not type(None))
        return self.type

    @property
    def is_list(self) -> bool:
        """True for a flag that may be repeated."""
        return typing.get_origin(self.value_type) is list


def option(default: Any = None, **settings: Any) -> Any:
    """Declare a dataclass field that is a command-line flag.

    Args:
        default: if left out, None; False for a `bool`; an empty list for a `list[X]`, which may be repeated.
        settings: the fields of `Flag`; `help` is required.
    """
    return field(default=default, metadata={FLAG_KEY: Flag(**settings)})


@dataclass(kw_only=True)
class Options:
    """Base class of all groups of flags.

    Raises:
        UserError: a number is out of its range or a path does not exist; names the flag.
    """

    def __post_init__(self) -> None:
        for flag in declared(type(self)):
            value = getattr(self, flag.name)
            if value is None and (flag.is_list or flag.type is bool):
                setattr(self, flag.name, [] if flag.is_list else False)
            for one in value if isinstance(value, list | tuple) else [value]:
                _check(flag, one)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declare all flags; one that is not given stays absent from the namespace."""
        defaults = {one.name: one.default for one in fields(cls)}
        for flag in declared(cls):
            name = flag.name if flag.positional else f"--{flag.name}"
            parser.add_argument(name, **_argument(flag, defaults[flag.name]))

    @classmethod
    def from_arguments(cls, namespace: argparse.Namespace) -> Self:
        """Build the options from the flags that were given and the defaults of all others.

        Raises:
            UserError: a flag is given without the flag it needs, or a value is not allowed.
        """
        given = {flag.name: getattr(namespace, flag.name) for flag in declared(cls) if hasattr(namespace, flag.name)}
        for flag in declared(cls):
            if flag.name in given and flag.needs and not given.keys() & set(flag.needs):
                raise UserError(f"--{flag.name} needs --{' or --'.join(flag.needs)}")
        return cls(**given)


def declared(options: type[Options]) -> list[Flag]:
    """List the flags of a class: its own first, then those of its bases in their order."""
    hints = typing.get_type_hints(options)
    found = [replace(flag, name=name, type=hint) for name, hint in hints.items() if (flag := _flag(options, name))]
    bases = reversed(list(enumerate(options.__mro__)))
    depth = {name: number for number, base in bases for name in inspect.get_annotations(base)
             if FLAG_KEY in _metadata(base, name)}  # fmt: skip
    return sorted(found, key=lambda flag: depth[flag.name])


def _flag(options: type, name: str) -> Flag | None:
    """The declaration of a flag in a class or, where the class changes the default only, in the nearest base."""
    return next((found[FLAG_KEY] for base in options.__mro__ if (found := _metadata(base, name))), None)


def _metadata(options: type, name: str) -> Any:
    one = getattr(options, "__dataclass_fields__", {}).get(name)
    return one.metadata if one else {}


def parse_spans(text: str) -> Spans:
    """Parse "1.5-3,4-" -> [(1.5, 3.0), (4.0, None)], in seconds.

    Raises:
        argparse.ArgumentTypeError: another notation, or an empty or reversed span.
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


def _argument(flag: Flag, default: Any) -> dict[str, Any]:
    """Keyword arguments of `ArgumentParser.add_argument`."""
    kind = flag.value_type
    found: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(flag, default)}
    if kind is bool:
        return found | {"action": "store_true"}
    if flag.is_list:
        repeated = {"nargs": "+"} if flag.positional else {"action": "extend" if flag.parse else "append"}
        found |= repeated | {"type": flag.parse or typing.get_args(kind)[0]}
    elif typing.get_origin(kind) is tuple:
        found |= {"nargs": len(typing.get_args(kind)), "type": flag.parse or typing.get_args(kind)[0]}
    elif issubclass(kind, Enum):
        found |= {"type": _enum_parser(kind), "metavar": "{" + ",".join(kind.__members__) + "}"}
    else:
        found |= {"type": flag.parse or kind}
    shown = {"metavar": flag.metavar, "choices": flag.choices}
    return found | {name: value for name, value in shown.items() if value}


def _enum_parser(kind: type[Enum]) -> Callable[[str], Enum]:
    def parse(text: str) -> Enum:
        if text not in kind.__members__:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(kind.__members__)}")
        return kind[text]

    return parse


def _help(flag: Flag, default: Any) -> str:
    """The help with the default, which argparse itself cannot append because absent flags stay absent."""
    text = flag.help.replace("%", "%%")
    if "(default" in text or default is None or isinstance(default, bool) or default == "":
        return text
    shown = " ".join(f"{part:g}" for part in default) if isinstance(default, tuple) else str(default)
    return f"{text} (default: {shown.replace('%', '%%')})"


def _check(flag: Flag, value: Any) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(flag, value)
    elif flag.must_exist and isinstance(value, Path) and not value.exists():
        raise UserError(f"--{flag.name} {value}: no such file or folder")


def _check_number(flag: Flag, value: float) -> None:
    unit = f" {flag.unit}" if flag.unit else ""
    low, high = flag.low, flag.high
    if not math.isfinite(value):
        raise UserError(f"--{flag.name} must be a finite number, got {value}")
    if (low is not None and value < low) or (high is not None and value > high):
        bounds = f"from {low:g} to {high:g}" if low is not None and high is not None else None
        bounds = bounds or (f"at least {low:g}" if low is not None else f"at most {high:g}")
        raise UserError(f"--{flag.name} must be {bounds}{unit}, got {value:g}")
    if flag.above is not None and value <= flag.above:
        raise UserError(f"--{flag.name} must be above {flag.above:g}{unit}, got {value:g}")
    if flag.multiple is not None and value % flag.multiple:
        raise UserError(f"--{flag.name} must be a multiple of {flag.multiple}{unit}, got {value:g}")
