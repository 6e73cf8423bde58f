"""Opening pickles that somebody else wrote: plain data comes out, nothing is ever executed."""

import pickle
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError, first_line

ALLOWED = frozenset({
    ("builtins", "set"), ("builtins", "frozenset"), ("collections", "OrderedDict"),
    ("__builtin__", "set"), ("__builtin__", "frozenset"),  # as Python 2 named them
})  # fmt: skip
# what a damaged or foreign file makes the unpickler raise
DAMAGED = (EOFError, LookupError, ValueError, TypeError, AttributeError, ImportError, OverflowError, MemoryError)


class _Plain(pickle.Unpickler):
    """Numbers, text and containers of them; every other name is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_plain(path: Path) -> Any:
    """What a pickle of lists, dictionaries, sets, text and numbers holds.

    Raises:
        UserError: absent, damaged, or asking for a class or function, which only running code could provide.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return _Plain(file).load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a pickle of plain data, refused ({first_line(error)})") from error
    except DAMAGED as error:
        raise UserError(f"{path}: not a readable pickle ({first_line(error, 120)})") from error
