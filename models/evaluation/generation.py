"""Files made for evaluation, one for each Uid, so that an interrupted run goes on where it stopped.

{folder}/UID.wav (or .png ...) and settings.json, which says what made them: nothing of other settings is mixed in.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from sonolume.models.evaluation.protocol import differences
from sonolume.utils import files
from sonolume.utils.errors import UserError
from sonolume.utils.lock import alone

SETTINGS_FILE = "settings.json"
LOCK_FILE = ".lock"
REMEDY = "choose another --output_dir, or remove the folder to make them anew"

Sample = TypeVar("Sample")


def seed_of(seed: int, uid: str) -> int:
    """The seed of one sample, 0 to 2**63 - 1: the same in every order, batch and selection."""
    return int.from_bytes(hashlib.sha256(f"{seed} {uid}".encode("utf-8", "surrogatepass")).digest()[:8]) >> 1


def generate(
    folder: Path,
    inputs: Mapping[str, str],
    settings: Mapping[str, Any],
    make: Callable[[list[str], list[int]], Sequence[Sample | None]],
    save: Callable[[Path, Sample], object],
    *,
    suffix: str = ".wav",
    batch_size: int = 16,
    seed: int = 0,
    title: str = "generate",
) -> dict[str, Path]:
    """Make the files that are not there yet, and return those of all Uids, in their order.

    Batches are cut from all Uids, done or not, so that an interrupted run ends with the same bytes as one that was not.

    Args:
        folder: `{folder}/{uid}{suffix}` appears whole or not at all.
        inputs: Uid -> what its file is made from, such as the caption.
        settings: all else that decides the files, as plain JSON values; `seed` is added.
        make: Uids and their seeds (`seed_of`) -> one sample each, None for what cannot be made, which gets no file.
        save: writes a sample to a path; need not be atomic.
        batch_size: Uids given to `make` at once.
        seed: of the run.
        title: of the progress bar.

    Raises:
        UserError: the folder holds files of other settings or inputs (says which differ), or a Uid is no file name.
    """
    unsafe = next((uid for uid in inputs if not files.is_safe_uid(uid)), None)
    if unsafe is not None:
        raise UserError(f"Uid {unsafe!r} is no file name inside {folder}: rename it")
    wanted = {uid: folder / f"{uid}{suffix}" for uid in inputs}
    with alone(folder / LOCK_FILE, f"making files in {folder}"):
        _claim(folder, inputs, {"seed": seed, **settings}, suffix)
        for path in files.unfinished(folder, below=True):  # of a run that was killed
            path.unlink()
        _fill(wanted, make, save, batch_size, seed, title)
    return {uid: path for uid, path in wanted.items() if _is_done(path)}


def _fill(
    wanted: Mapping[str, Path],
    make: Callable[[list[str], list[int]], Sequence[Sample | None]],
    save: Callable[[Path, Sample], object],
    batch_size: int,
    seed: int,
    title: str,
) -> None:
    uids, missing = list(wanted), {uid for uid, path in wanted.items() if not _is_done(path)}
    with tqdm(total=len(uids), initial=len(uids) - len(missing), desc=title, leave=None, disable=not missing) as bar:
        for start in range(0, len(uids), batch_size):
            batch = uids[start : start + batch_size]
            todo = missing.intersection(batch)
            if not todo:
                continue
            samples = make(batch, [seed_of(seed, uid) for uid in batch])
            for uid, sample in zip(batch, samples, strict=True):
                if uid in todo and sample is not None:
                    with files.atomic_path(wanted[uid]) as path:
                        save(path, sample)
            bar.update(len(todo))


def _is_done(path: Path) -> bool:
    """A crash of the whole machine can leave an empty file."""
    return path.is_file() and path.stat().st_size > 0


def _claim(folder: Path, inputs: Mapping[str, str], settings: Mapping[str, Any], suffix: str) -> None:
    """Write down what the folder's files are made from, unless it says so already."""
    path, new = folder / SETTINGS_FILE, json.loads(json.dumps(settings))
    old_inputs: dict[str, str] = {}
    if path.is_file():
        old, old_inputs = _read(path)
        found = differences(old, new)
        if found:
            raise UserError(f"{folder} holds files of other settings (then / now): {'; '.join(found)}: {REMEDY}")
        other = next((uid for uid, made_from in inputs.items() if old_inputs.get(uid, made_from) != made_from), None)
        if other is not None:
            raise UserError(f"{folder}: {other} was made from {old_inputs[other]!r}, not {inputs[other]!r}: {REMEDY}")
    elif next(folder.rglob(f"*{suffix}"), None) is not None:
        raise UserError(f"{folder} holds files, but no {SETTINGS_FILE} that says what made them: {REMEDY}")
    everything = {"settings": new, "inputs": {**old_inputs, **inputs}}
    if not path.is_file() or everything["inputs"] != old_inputs:
        files.write_json(path, everything)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["settings"], content["inputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not as it was written ({error}): {REMEDY}") from error
