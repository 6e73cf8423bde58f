"""Safe reading of pickles from other projects: plain data only, no code is executed."""

import pickle
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError, first_line

ALLOWED = frozenset({
    ("builtins", "set"), ("builtins", "frozenset"), ("collections", "OrderedDict"),
    ("__builtin__", "set"), ("__builtin__", "frozenset"),  # the names in Python 2
})  # fmt: skip
# raised by the unpickler for damaged or foreign files
DAMAGED = (EOFError, LookupError, ValueError, TypeError, AttributeError, ImportError, OverflowError, MemoryError)


class _PlainUnpickler(pickle.Unpickler):
    """Accepts numbers, text and containers; any other global is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_plain(path: Path) -> Any:
    """Load a pickle of lists, dictionaries, sets, text and numbers; a UserError if it needs a class or function."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a pickle of plain data, refused ({first_line(error)})") from error
    except DAMAGED as error:
        raise UserError(f"{path}: not a readable pickle ({first_line(error, 120)})") from error
