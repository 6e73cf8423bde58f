"""Converted or trained parts -> one pipeline folder."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from sonolume.config import options as flags
from sonolume.config.options import option
from sonolume.utils.errors import UserError

KINDS = {  # kind of pipeline -> its required parts, its optional ones; models/convert/assemble.py has its function
    "text-to-audio": (("vae", "unet", "text_encoder"), ("vocoder", "text_mask", "preset")),
}
PARTS = "; ".join(
    f"{kind}: {', '.join(required)}, optionally {', '.join(optional)}" for kind, (required, optional) in KINDS.items()
)


@dataclass(kw_only=True)
class Options(flags.Options):
    kind: str = option(help=", ".join(KINDS), metavar="KIND", choices=tuple(KINDS), positional=True)
    folder: Path = option(help="new folder of the pipeline", metavar="FOLDER", positional=True)
    parts: list[str] = option(help=PARTS, metavar="part=FOLDER", positional=True)


def run(options: Options) -> None:
    kind, (required, optional) = options.kind, KINDS[options.kind]
    given: dict[str, str] = {}
    for argument in options.parts:
        name, _, value = argument.partition("=")
        if name not in required + optional:
            near = difflib.get_close_matches(name, required + optional, n=1)
            hint = f", did you mean {near[0]}=?" if near else f" (it takes {', '.join(required + optional)})"
            raise UserError(f"assemble {kind}: {argument!r} names no part{hint}")
        if not value or name in given:
            raise UserError(f"assemble {kind}: {argument!r}: {'give it once' if value else f'no value after {name}='}")
        given[name] = value
    missing = [f"{name}=FOLDER" for name in required if name not in given]
    if missing:
        raise UserError(f"assemble {kind} needs {' '.join(missing)}")
    from sonolume.models.convert import assemble  # slow: imports torch

    getattr(assemble, kind.replace("-", "_"))(options.folder, given)
