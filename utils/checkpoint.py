"""Safe reading of checkpoints and exported folders: executes nothing, and names what is wrong with a file."""

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from sonolume.utils.errors import ModelError, UserError, first_line
from sonolume.utils.model_folder import PIPELINES, wrong_kind
from sonolume.utils.paths import CONVERT, check_names, download, inside, is_local, kind_of, locate

# raised by torch.load for truncated files and for other kinds of files
DAMAGED = (RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError, zipfile.BadZipFile)
OFFICIAL = ("*.pt", "checkpoints/*.pt", "*/checkpoints/*.pt", "g_*")  # files of official training runs


class StoredObject:
    """Stands for an object of a class that is not installed: holds its attributes, and runs nothing of that class."""

    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read(path: Path, mapped: bool = False, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Load a dictionary saved by `torch.save` to the CPU; `mapped` tensors cost no memory until they are used.

    Args:
        packages: Python packages whose objects are read as `StoredObject`s; nothing of them is imported.

    Raises:
        UserError: a missing or truncated file, not a checkpoint, or one with objects that only code could rebuild.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    whole = zipfile.is_zipfile(path)
    try:
        if not whole:
            _check_header(path)
        names = get_unsafe_globals_in_checkpoint(path) if whole and packages else []
        with safe_globals([(StoredObject, name) for name in names if name.partition(".")[0] in packages]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and whole)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: not a plain checkpoint, refused ({first_line(error)})") from error
    except DAMAGED as error:
        raise UserError(f"{path}: cut or damaged, not readable ({first_line(error, 120)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not the dictionary of a checkpoint")
    return content


def _check_header(path: Path) -> None:
    """Raise a UserError for a file that is neither a complete zip archive nor in torch's older format."""
    with path.open("rb") as file:
        beginning = file.read(60)
    if beginning.startswith(b"PK\x03\x04"):
        size = path.stat().st_size
        raise UserError(f"{path}: cut or damaged, its end is missing ({size} bytes): copy or download it again")
    if beginning.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the file itself: run 'git lfs pull' or download it again")
    if beginning and not beginning.startswith(b"\x80"):  # neither zip nor pickle; an empty file was cut
        raise UserError(f"{path}: no checkpoint of PyTorch: name the published file, such as a .pt, .ckpt or .tar")


def check_training(path: Path, task: torch.nn.Module) -> dict[str, Any]:
    """Load a training checkpoint; a UserError names the first difference if its weights do not fit the task."""
    content = read(path)
    if "state_dict" not in content:
        raise UserError(f"{path}: not a training checkpoint (no 'state_dict' in it)")
    if difference := first_difference(content["state_dict"], task.state_dict()):
        raise UserError(f"{path}: belongs to another model: {difference}; resume with the config it was trained with")
    return content


def first_difference(given: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Describe the first tensor that is missing, unknown or of another shape; "" if there is none."""
    for name, tensor in wanted.items():
        if name not in given:
            return f"it has no {name}"
        if given[name].shape != tensor.shape:
            return f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
    unknown = next((name for name in given if name not in wanted), None)
    return f"it has {unknown}, which this model has not" if unknown is not None else ""


def check_folder(folder: Path, *kinds: str) -> None:
    """Check that a folder was written by `save_pretrained` of one of the classes `kinds`, before a library loads it."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    hint = CONVERT if any(next(folder.glob(pattern), None) for pattern in OFFICIAL) else ""
    _check_kind(folder, str(folder), kinds, hint)
    for weights in sorted(folder.rglob("*.safetensors")):
        try:
            safe_open(weights, "pt")  # compares the header with the length of the file
        except (SafetensorError, OSError) as error:
            size = weights.stat().st_size
            raise UserError(f"{weights}: cut or damaged ({size} bytes: {first_line(error)}); copy it again") from error


def check_download(source: str, key: str, *kinds: str) -> None:
    """Check a hub id as `check_folder` does a folder, before a library downloads it: only its settings are fetched."""
    _check_kind(download(source, key, "*.json"), f"{key} {source}", kinds)


def _check_kind(folder: Path, name: str, kinds: Sequence[str], hint: str = "") -> None:
    """Raise a UserError unless the settings of a folder name one of `kinds`, and only classes that are allowed."""
    if (found := kind_of(folder)) not in kinds:
        raise ModelError(f"{name}: {wrong_kind(found, kinds[0])}{hint}")
    check_names(folder, *kinds)


def load_network(
    kind: Any, source: str, key: str, component: str = "", remedy: str = "", dtype: torch.dtype = torch.float32,
    also: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Load a frozen network of diffusers' or transformers' class `kind` on the CPU.

    Args:
        source: its folder, a pipeline folder that holds it as `component`, or a hub id.
        key: config key or flag of `source`, for messages; `remedy` is the advice for a missing folder.
        also: names of other classes whose folders hold such a network.

    Raises:
        UserError: missing, damaged or of another class.
    """
    located = locate(source, key, remedy)
    where = inside(located, component)
    if where != located:  # a component of a pipeline
        check_names(Path(located), *PIPELINES)
    if is_local(where):
        check_folder(Path(where), kind.__name__, *also)
    else:
        check_download(where, key, kind.__name__, *also)
    try:
        return kind.from_pretrained(where, dtype=dtype).eval().requires_grad_(False)
    except DAMAGED as error:
        hint = f"; {remedy}" * bool(remedy and is_local(where))
        raise UserError(f"{key} {source}: cannot be loaded: {first_line(error)}{hint}") from error
