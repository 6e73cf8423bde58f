"""Mean and covariance of a reference set, kept on disk: computed once for all validations, resumes and runs."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.embedders.cache import embed_sounds, key_facts
from sonolume.models.evaluation.protocol import FORMULAS, digest
from sonolume.modules.metrics.frechet import Moments
from sonolume.utils import files, lock
from sonolume.utils.errors import UserError, first_line

STATISTICS, EMBEDDINGS = "statistics", "embeddings"  # in the folder of caches


def of_sounds(
    listed: Any, sounds: Callable[[], Mapping[str, Path]], embedder: Embedder, folder: Path, batch_size: int
) -> Moments | None:
    """Of the usable sounds of a reference; None of fewer than two.

    Args:
        listed: says which sounds they are and what is in them, as plain values; another list makes another file.
        sounds: Uid -> file; asked only where nothing is kept.
        folder: of caches, one for all embedders. Several processes that start together compute once.

    Raises:
        UserError: what is kept is damaged.
    """
    facts = {"formulas": FORMULAS, "reference": digest(listed), **key_facts(embedder, "sounds")}
    path = folder / STATISTICS / f"{files.safe_name(embedder.name, 60)}-{digest(facts)}.npz"
    with lock.alone(path.parent / ".lock", f"embedding reference sounds in {folder}"):
        if path.is_file():
            return _read(path)
        found = embed_sounds(list(sounds().values()), embedder, folder / EMBEDDINGS, batch_size)
        if len(found.kept) < 2:
            return None
        moments = Moments.of(found.embeddings)
        _write(path, moments, facts)
    return moments


def _write(path: Path, moments: Moments, facts: dict[str, Any]) -> None:
    memory = io.BytesIO()  # numpy hides the system's error (disk full); write_bytes raises it
    covariance, said = moments.covariance.numpy(), np.array(json.dumps(facts))
    np.savez(memory, mean=moments.mean.numpy(), covariance=covariance, count=np.int64(moments.count), facts=said)
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def _read(path: Path) -> Moments:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            mean, covariance, count = (kept[name] for name in ("mean", "covariance", "count"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({first_line(error, 80)}); remove it, it will be made anew") from error
    return Moments(torch.from_numpy(mean), torch.from_numpy(covariance), int(count))
