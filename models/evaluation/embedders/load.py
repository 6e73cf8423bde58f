"""Find and load an embedder by its specification `KIND:SOURCE`.

Every module of this package that assigns a literal `KINDS = {kind: (form, pattern)}` provides embedders: `form` shows
how the source is written, the whole source must match `pattern`, whose groups named `..._embedder` are specifications
themselves. Its `load(kind, source, device) -> Embedder` is imported only when needed. A new embedder is a new file.
"""

import ast
import importlib
import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sonolume.utils.errors import UserError

if TYPE_CHECKING:
    import torch

    from sonolume.models.evaluation.embedders.base import Embedder


@cache
def kinds() -> dict[str, tuple[str, str, str]]:
    """Map each kind to its module, form and pattern: all `KINDS`, read without imports, which would take seconds."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "KINDS":
                try:
                    declared: dict[str, tuple[str, str]] = ast.literal_eval(node.value)
                    found |= {kind: (path.stem, form, pattern) for kind, (form, pattern) in declared.items()}
                except (ValueError, TypeError, AttributeError) as error:
                    raise UserError(f"{path}: KINDS must be a literal {{kind: (form, pattern)}}: {error}") from error
    return found


def check(spec: str) -> tuple[str, str]:
    """Split a specification into kind and source; imports nothing slow.

    Raises:
        UserError: unknown kind, with the nearest known one, or a source that is not written as the kind requires.
    """
    kind, colon, source = spec.partition(":")
    if not colon or kind not in kinds():
        near = get_close_matches(kind.lower(), kinds(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"embedder {spec!r}: unknown kind{hint}; write KIND:SOURCE with one of {', '.join(kinds())}")
    _, form, pattern = kinds()[kind]
    match = re.fullmatch(pattern, source)
    if not match:
        raise UserError(f"embedder {spec!r}: write {kind}:{form}")
    for group, nested in match.groupdict().items():
        if group.endswith("_embedder"):
            check(nested)
    return kind, source


def load(spec: str, device: "torch.device | str" = "cpu") -> "Embedder":
    """Load a frozen embedder.

    A hub id may carry a revision, `ID@REVISION`; a folder is relative to the working directory, else to the repository.

    Raises:
        UserError: unknown kind, or a source that is missing, damaged or of another type.
    """
    kind, source = check(spec)
    module = importlib.import_module(f"sonolume.models.evaluation.embedders.{kinds()[kind][0]}")
    return module.load(kind, source, device)


def load_all(specs: "Sequence[str]", device: "torch.device | str" = "cpu") -> "list[Embedder]":
    """Load each of `specs` once, as `load`; raises a UserError if two embedders have the same name in a report."""
    found = [load(spec, device) for spec in dict.fromkeys(specs)]
    names = [embedder.name.partition("@")[0] for embedder in found]
    twin = next((name for name in names if names.count(name) > 1), None)
    if twin is not None:
        raise UserError(f"--embedder: two embedders are called {twin} in a report: score with one at a time")
    return found
