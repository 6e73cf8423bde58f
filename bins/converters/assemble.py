"""Pipelines from parts."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from sonolume.config.options import Options, option
from sonolume.utils.errors import UserError

KIND = "text-to-audio"
REQUIRED, OPTIONAL = ("vae", "unet", "text_encoder"), ("vocoder", "text_mask", "preset")
PARTS = f"{KIND}: {', '.join(REQUIRED)}, optionally {', '.join(OPTIONAL)}"


@dataclass(kw_only=True)
class PartOptions(Options):
    kind: str = option(help=KIND, metavar="KIND", choices=(KIND,), positional=True)
    folder: Path = option(help="new folder of the pipeline", metavar="FOLDER", positional=True, is_output=True)
    parts: list[str] = option(help=PARTS, metavar="part=FOLDER", positional=True)


def assemble(options: PartOptions) -> None:
    """Converted or trained parts -> one pipeline folder."""
    given: dict[str, str] = {}
    for argument in options.parts:
        name, _, value = argument.partition("=")
        if name not in REQUIRED + OPTIONAL:
            near = difflib.get_close_matches(name, REQUIRED + OPTIONAL, n=1)
            hint = f", did you mean {near[0]}=?" if near else f" (it takes {', '.join(REQUIRED + OPTIONAL)})"
            raise UserError(f"assemble {KIND}: {argument!r} names no part{hint}")
        if not value or name in given:
            raise UserError(f"assemble {KIND}: {argument!r}: {'give it once' if value else f'no value after {name}='}")
        given[name] = value
    missing = [f"{name}=FOLDER" for name in REQUIRED if name not in given]
    if missing:
        raise UserError(f"assemble {KIND} needs {' '.join(missing)}")
    from sonolume.models.convert import assemble  # slow: imports torch

    assemble.text_to_audio(options.folder, given)
