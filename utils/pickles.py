"""Safe reading of pickles from other projects: plain data and plain arrays only, no code is executed."""

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sonolume.utils.errors import UserError, first_line

ALLOWED = frozenset({
    ("builtins", "set"), ("builtins", "frozenset"), ("collections", "OrderedDict"),
    ("__builtin__", "set"), ("__builtin__", "frozenset"),  # the names in Python 2
})  # fmt: skip
# raised by the unpickler for damaged or foreign files
DAMAGED = (EOFError, LookupError, ValueError, TypeError, AttributeError, ImportError, OverflowError, MemoryError)


NUMBERS = frozenset("fiub")  # kinds of numpy types that arrays may have
MAX_DIMENSIONS = 8


class _PlainUnpickler(pickle.Unpickler):
    """Accepts numbers, text and containers; any other global is refused before it is imported."""

    stand_ins: dict[tuple[str, str], Callable[..., Any]] = {}  # called in place of the globals of these names

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.stand_ins:
            return self.stand_ins[module, name]
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


class _Type:
    """Stands for numpy.dtype: a kind of number, its size and its byte order."""

    def __init__(self, text: str, *_: Any) -> None:
        self.dtype = np.dtype(text if isinstance(text, str) and text[:1] in NUMBERS and text[1:].isdigit() else "O")
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of type {text!r:.40}, not of numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """Stands for an array that is filled by its state, as pickles below protocol 5 store it."""

    def __init__(self, *_: Any) -> None:
        self.content = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        self.content = _from_buffer(content, kind, shape, "F" if by_columns else "C")


def _from_buffer(content: Any, kind: Any, shape: Any, order: str, *_: Any) -> np.ndarray:
    """Return an array of numbers that shares no memory with the pickle."""
    if not isinstance(content, bytes | bytearray) or not isinstance(kind, _Type):
        raise pickle.UnpicklingError("it holds an array whose content is not numbers")
    if len(shape) > MAX_DIMENSIONS or order not in ("C", "F"):
        raise ValueError(f"an array of shape {shape!r:.60} in the order {order!r:.10}")
    array = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(kind.dtype.newbyteorder("="))


def _encode(text: str, encoding: str) -> bytes:
    """Stands for codecs.encode, by which protocol 2 stores bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r:.20}")
    return codecs.latin_1_encode(text)[0]


class _ArrayUnpickler(_PlainUnpickler):
    """Accepts arrays of numbers, too: rebuilt by the stand-ins above, so that none of numpy's own functions runs."""

    stand_ins = {
        ("numpy", "dtype"): _Type, ("numpy", "ndarray"): _Array, ("_codecs", "encode"): _encode,
        ("builtins", "bytes"): lambda: b"", ("__builtin__", "bytes"): lambda: b"",  # of protocol 2, for no bytes
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},  # numpy 1 and 2
        **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    }  # fmt: skip


def read_plain(path: Path) -> Any:
    """Load a pickle of lists, dictionaries, sets, text and numbers; a UserError if it needs a class or function."""
    return _read(path, _PlainUnpickler, "plain data")


def read_arrays(path: Path) -> Any:
    """Load a pickle of plain data and of numpy arrays of numbers, of any protocol and written by numpy 1 or 2.

    Raises:
        UserError: missing or damaged, arrays of objects, or anything that needs another class or function.
    """
    try:
        return _without_stand_ins(_read(path, _ArrayUnpickler, "plain data and arrays of numbers"))
    except RecursionError as error:
        raise UserError(f"{path}: not a pickle of arrays: it contains itself") from error


def _read(path: Path, kind: type[pickle.Unpickler], what: str) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return kind(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a pickle of {what}, refused ({first_line(error)})") from error
    except DAMAGED as error:
        raise UserError(f"{path}: not a readable pickle ({first_line(error, 120)})") from error


def _without_stand_ins(content: Any) -> Any:
    """Replace the stand-ins in dictionaries, lists and tuples by the arrays that they hold."""
    if isinstance(content, dict):
        return {key: _without_stand_ins(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map(_without_stand_ins, content))
    return content.content if isinstance(content, _Array) else content
