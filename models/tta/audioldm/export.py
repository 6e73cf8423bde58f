"""A pipeline as a folder that stock diffusers loads: weights, configs and the code of the pipeline itself."""

import importlib
import json
import re
from pathlib import Path

from sonolume.models.tta.audioldm import pipeline as pipeline_file
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.utils import files

IMPORT = re.compile(r"^from sonolume\.modules\.(\w+) import", re.MULTILINE)


def export(pipe: TextToAudioPipeline, folder: Path) -> None:
    """Write `pipe` with `pipeline.py` and the modules that it imports beside it.

    `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` then needs no sonolume.
    """
    pipe.save_pretrained(folder)
    _copy_code(Path(pipeline_file.__file__), folder)
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    index["_class_name"] = ["pipeline", TextToAudioPipeline.__name__]  # diffusers looks for pipeline.py in the folder
    files.write_json(folder / "model_index.json", index)


def _copy_code(source: Path, folder: Path) -> None:
    """Copy a module and, beside it, all modules of `sonolume.modules` that it imports."""
    text = source.read_text(encoding="utf-8")
    (folder / source.name).write_text(IMPORT.sub(r"from .\1 import", text), encoding="utf-8")
    for name in IMPORT.findall(text):
        if not (folder / f"{name}.py").exists():
            _copy_code(Path(str(importlib.import_module(f"sonolume.modules.{name}").__file__)), folder)
