"""A report as run_eval.sh writes it, with samples and captions; run by `runpy`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from torch import tensor

from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.modules.metrics.interval import Share

CAPTIONS = {"a": "<b>A bell</b> rings", "b": "[x](javascript:alert(1)) barks", "c": "Rain"}


def make_report(folder: Path, values: list[float], seed: int = 0, level: float = 0.5) -> Path:
    """Write a report of three sounds, one with a picture; `values` are those of its score, `level` of its sounds."""
    conditions = measurement_conditions(["clap:x@1"], ["a", "b", "c"], 3, seed=seed)
    facts = {"model": "/srv/models/bell", "num_steps": 20, "other": [1]}
    report = Report(conditions, facts=facts, counts={"silent generated": 1, "clipped generated": 0})
    report.add_mean("CLAP score", tensor(values), list(CAPTIONS), baselines={"real": tensor([0.8, 0.9, 1.0])})
    report.add_share("single", Share(2, 3), chance=0.1, headline=True)
    report.add_mean("FAD clap", tensor([3.0]), ["a"], "down", list_worst=False, note="of the whole sets")
    wave = np.sin(np.arange(8000) / 10).astype(np.float32)
    for column, gain in (("reference", 0.25), ("generated", level)):
        (folder / column).mkdir(parents=True)
        for uid in CAPTIONS:
            soundfile.write(folder / column / f"{uid}.wav", gain * wave, 16000, subtype="PCM_16")
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 6), "red").save(folder / "pictures" / "a.png")
    write_inputs(folder / "generated", {uid: f"{uid}.png" for uid in CAPTIONS})
    write_inputs(folder / "reference", CAPTIONS)
    Image.new("RGB", (40, 60), "blue").save(folder / "worst.png")
    finish(report, folder, ["worst.png"])
    return folder


def write_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    (folder / "settings.json").write_text(json.dumps({"settings": {"seed": 0}, "inputs": inputs}))
