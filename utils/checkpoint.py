"""Opening weights that somebody else may have written: never executes what it reads, names what is wrong with it."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from sonolume.utils.errors import UserError, first_line
from sonolume.utils.hub import CONVERT

# what torch.load raises for files that are cut or no checkpoints at all
DAMAGED = (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, zipfile.BadZipFile)
OFFICIAL = ("*.pt", "checkpoints/*.pt", "*/checkpoints/*.pt", "g_*")  # what official training runs leave


def read(path: Path, mapped: bool = False) -> dict[str, Any]:
    """A dictionary saved by `torch.save`, on the CPU.

    Args:
        mapped: leave the tensors in the file until they are used; what is never used then costs no memory.

    Raises:
        UserError: absent, cut, not a checkpoint, or holding objects that only running code could rebuild.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    whole = zipfile.is_zipfile(path)
    try:
        if not whole:
            _check_beginning(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and whole)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a plain checkpoint, refused ({first_line(error)})") from error
    except DAMAGED as error:
        raise UserError(f"{path}: cut or damaged, not readable ({first_line(error, 120)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not the dictionary of a checkpoint")
    return content


def _check_beginning(path: Path) -> None:
    """A file that is not a whole zip archive may be of torch's older format, but not one of these."""
    with path.open("rb") as file:
        beginning = file.read(60)
    if beginning.startswith(b"PK\x03\x04"):
        size = path.stat().st_size
        raise UserError(f"{path}: cut or damaged, its end is missing ({size} bytes): copy or download it again")
    if beginning and not beginning.startswith(b"\x80"):  # neither zip nor pickle; an empty file was cut
        what = "a Git LFS pointer, not the file itself: run 'git lfs pull' or download it again"
        is_pointer = beginning.startswith(b"version https://git-lfs")
        raise UserError(f"{path}: {what if is_pointer else 'no checkpoint of torch: name a .pt, .ckpt or g_* file'}")


def check_training(path: Path, task: torch.nn.Module) -> dict[str, Any]:
    """A training checkpoint, after making sure that it is of this very model.

    Raises:
        UserError: it is absent, damaged, no training checkpoint, or of another model (the first difference is named).
    """
    if not path.exists():
        raise UserError(f"{path}: nothing to resume: no checkpoint was saved there yet")
    content = read(path)
    if "state_dict" not in content:
        raise UserError(f"{path}: not a training checkpoint (no 'state_dict' in it)")
    difference = first_difference(content["state_dict"], task.state_dict())
    if difference:
        raise UserError(f"{path}: belongs to another model: {difference}; resume with the config it was trained with")
    return content


def first_difference(given: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first tensor that is missing, unknown or of another shape, in words; "" when none is."""
    for name, tensor in wanted.items():
        if name not in given:
            return f"it has no {name}"
        if given[name].shape != tensor.shape:
            return f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
    unknown = [name for name in given if name not in wanted]
    return f"it has {unknown[0]}, which this model has not" if unknown else ""


def check_folder(folder: Path, *kinds: str) -> None:
    """Make sure that a folder holds what `save_pretrained` of one of `kinds` wrote, before a library loads it.

    Raises:
        UserError: a missing folder or file, a broken config, another class, a safetensors file cut short.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    name = "model_index.json" if (folder / "model_index.json").exists() else "config.json"
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no {name} in it: not an exported model{_hint(folder)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / name}: broken JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / name}: holds no settings: not an exported model")
    found = config.get("_class_name") or (config.get("architectures") or ["nothing"])[0]
    found = found[-1] if isinstance(found, list) else found
    if found not in kinds:
        raise UserError(f"{folder}: holds a {found}, not a {kinds[0]}{_hint(folder)}")
    for weights in sorted(folder.rglob("*.safetensors")):
        _check_safetensors(weights)


def _hint(folder: Path) -> str:
    """What to do with the folder of an official training run."""
    return CONVERT if any(next(folder.glob(pattern), None) for pattern in OFFICIAL) else ""


def _check_safetensors(path: Path) -> None:
    """A file is whole if it ends where the last tensor of its header ends."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(header_size)) if 8 + header_size <= size else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or none of this form
            ends = []
    if not ends or 8 + header_size + max(ends) != size:
        raise UserError(f"{path}: cut or damaged: {size} bytes are not what its header promises; copy it again")
