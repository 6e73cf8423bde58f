"""Model card of a pipeline that `save_pretrained` writes: that of the folder it was loaded from, or a plain one.

Exported folders carry a copy of this file: it needs the standard library only. models/card.py writes the full cards.
"""

import hashlib
from pathlib import Path

FILE = "README.md"
MARK = "<!-- This card was written by sonolume from facts; `sonolume publish` keeps what you add. -->"
MEASURED, END_MEASURED = "<!-- measured -->", "<!-- /measured -->"
LICENCE, END_LICENCE = "<!-- licence -->", "<!-- /licence -->"
PLAIN = f"""\
---
library_name: diffusers
pipeline_tag: text-to-audio
tags:
- sonolume
- text-to-audio
inference: false
---

{MARK}

# Text to audio

A pipeline of sonolume's `TextToAudioPipeline`, saved from Python.

## Use

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("FOLDER_OR_ID", trust_remote_code=True)
```

`trust_remote_code=True` runs the Python files of this folder: read them first. sonolume's own
`TextToAudioPipeline.from_pretrained("FOLDER_OR_ID")` does not run them.

## Training

Not known: the pipeline was saved from Python, and its weights differ from those it was loaded with, or it was not
loaded from a folder with a card.

## Measured

{MEASURED}
Not measured.
{END_MEASURED}

## Licence

{LICENCE}
Licence of these weights: not known.
{END_LICENCE}
"""


def weights_hash(folder: Path) -> str:
    """Hash of all safetensors files in a folder and below, with their names."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


def read_card(folder: Path) -> str | None:
    """Read the card of a folder; None if it has none."""
    path = folder / FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def save_card(folder: Path, earlier: tuple[str, str] | None) -> None:
    """Write the card of a saved pipeline: an `earlier` one if its weights are the same, else `PLAIN`.

    A card in the folder that somebody else wrote stays.

    Args:
        earlier: the card and the `weights_hash` of the folder that the pipeline was loaded from.
    """
    own = read_card(folder)
    if own is not None and MARK not in own:
        return
    is_same = earlier is not None and earlier[1] == weights_hash(folder)
    (folder / FILE).write_text(earlier[0] if earlier and is_same else PLAIN, encoding="utf-8")
