"""What the inference of every recipe shares: which model, on which device, and how results are written."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonolume.config.base import RunConfig
from sonolume.utils import audio, files, hub, paths
from sonolume.utils.errors import UserError, first_line

DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")  # examples; any index is taken
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_checkpoint(flag: str | None, config: RunConfig, shipped: str) -> str:
    """--checkpoint, else the run's own pipeline folder, else the shipped miniature one (which is said on stderr).

    Raises:
        UserError: --checkpoint names a folder that is not there, or a file.
    """
    if flag is not None:
        given = Path(flag).expanduser()
        if given.is_file():
            raise UserError(f"--checkpoint {flag}: is a file, not the folder of a model{hub.CONVERT}")
        if (given / "pipeline").is_dir() and (given / "checkpoints").is_dir():
            raise UserError(f"--checkpoint {flag}: is a run; its model is {given / 'pipeline'}")
        return str(given.resolve()) if given.exists() else hub.locate(flag, "--checkpoint")
    trained = config.run_dir / "pipeline"
    if trained.is_dir():
        return str(trained)
    print(
        f"no trained pipeline at {trained}: using the shipped miniature one, {shipped} "
        "(another: --checkpoint FOLDER, or exp_name and log_dir in the config)",
        file=sys.stderr,
    )
    return str(paths.root() / shipped)


def pick_device(name: str) -> torch.device:
    """ "auto" is cuda, else mps, else cpu.

    Raises:
        UserError: an unknown device, or one this machine has not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise UserError(f"--device {name}: no such device: choose {', '.join(DEVICES)}")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not on this machine ({first_line(error)})") from error
    return device


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One generator a sample, so that a sample does not depend on its batch. On the CPU: equal on every device."""
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


def versions() -> dict[str, str]:
    """Of the packages that decide a result."""
    names = ("sonolume", "torch", "diffusers", "transformers")
    return {name: importlib.metadata.version(name) for name in names}


def result_path(folder: Path, text: str, seed: int, suffix: str) -> Path:
    """A free path for a result: readable, safe on every file system, never one that exists."""
    return files.free_path(folder, f"{files.safe_name(text)}_{seed}", suffix)


def make_folder(folder: Path) -> Path:
    """Create the output folder.

    Raises:
        UserError: there is a file of that name, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror}: name a folder that can be written") from error
    return folder


def save_sound(path: Path, wave: np.ndarray, sample_rate: int, gain: float = 1.0) -> dict[str, float]:
    """Write a wav (n,), made quieter where it would leave -1..1, which is said on stderr.

    Args:
        gain: what it was multiplied by before.

    Returns:
        For the json: "peak" of what was generated, and "gain", what it was multiplied by in all.
    """
    peak = float(np.abs(wave).max(initial=0.0))
    generated = max(peak, 1 / gain) if gain < 1 else peak
    if peak > 1:
        gain, wave = gain / peak, wave / peak
    if gain < 1:
        print(f"{path.name}: its peak was {generated:.2f}, scaled by {gain:.3f} to fit", file=sys.stderr)
    audio.save_wav(path, wave, sample_rate)
    return {"peak": generated, "gain": gain}


def describe(**facts: Any) -> dict[str, Any]:
    """The json beside a result."""
    return facts | {"versions": versions()}
