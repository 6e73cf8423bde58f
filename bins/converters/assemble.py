"""Converted or trained parts -> one pipeline folder.

Every file of assemblies/ is a KIND of pipeline, with the names of its parts in REQUIRED and OPTIONAL, and
`run(folder, parts)`.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from sonolume.bins.converters import assemblies, modules
from sonolume.utils import options as flags
from sonolume.utils.errors import UserError
from sonolume.utils.options import option

KINDS = modules(assemblies)
PARTS = "; ".join(
    f"parts of {kind}: {', '.join(module.REQUIRED)}; optional: {', '.join(module.OPTIONAL)}"
    for kind, module in KINDS.items()
)


@dataclass(kw_only=True)
class Options(flags.Options):
    kind: str = option(
        help=f"pipeline to make: {', '.join(KINDS)}", metavar="KIND", choices=tuple(KINDS), positional=True
    )
    folder: Path = option(help="new folder of the pipeline", metavar="FOLDER", positional=True)
    parts: list[str] = option(help=PARTS, metavar="part=FOLDER", positional=True)


def run(options: Options) -> None:
    KINDS[options.kind].run(options.folder, parse_parts(options.kind, options.parts))


def parse_parts(kind: str, arguments: list[str]) -> dict[str, str]:
    """Parse `part=value` arguments.

    Raises:
        UserError: an unknown part, one given twice or without a value, or a required one missing.
    """
    required, known = KINDS[kind].REQUIRED, KINDS[kind].REQUIRED + KINDS[kind].OPTIONAL
    given: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}=?" if near else f" (it takes {', '.join(known)})"
            raise UserError(f"assemble {kind}: {argument!r} names no part{hint}")
        if not value or name in given:
            raise UserError(f"assemble {kind}: {argument!r}: {'give it once' if value else f'no value after {name}='}")
        given[name] = value
    missing = [name for name in required if name not in given]
    if missing:
        raise UserError(f"assemble {kind} needs {' '.join(f'{name}=FOLDER' for name in missing)}")
    return given
