"""Embeddings of many files, kept on disk: nothing is embedded twice, and an interrupted run goes on where it stopped.

A key is the sha256 of a file's content; a folder of the cache belongs to one embedder in one version, with one window,
rate and resampler.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from sonolume.models.evaluation.embedders import clips
from sonolume.models.evaluation.embedders.base import BATCH, Embedder, Features
from sonolume.models.evaluation.embedders.store import Row, Store
from sonolume.utils import files
from sonolume.utils.errors import UserError

Item = TypeVar("Item", Path, str)
READERS = 4  # threads that read ahead
FORMAT = 2  # to be raised when embeddings are computed in another way, or flags mean something else
SILENT, CLIPPED = 1, 2  # flags of a sound; a picture of one colour has the first
SMALLEST = 16  # pixels of a picture's shorter side: processors take fewer for colour channels
SHOW_AFTER = 1.0  # seconds until a progress bar appears; below another bar, such as training's, it goes when done


@dataclass(frozen=True)
class Embedded(Generic[Item]):
    """What became of the items, in their order."""

    embeddings: Tensor
    """(N, d) float32 of those kept"""
    kept: list[Item]
    """N items"""
    left_out: list[tuple[Item, str]]
    """the others, each with the reason"""
    logits: Tensor | None
    """(N, K) of those kept, None of an embedder that tells no classes"""
    silent: list[Item]
    """sounds that stay below -80 dB of full scale, and pictures of one colour, kept or not"""
    clipped: list[Item]
    """sounds with flat tops at full scale; they are kept"""
    computed: int
    """how many the cache did not have"""


class _Medium(NamedTuple):
    """How sounds, pictures or texts are told apart, opened and embedded."""

    name: str
    digest: Callable[[Any], bytes]
    open: Callable[[Any], tuple[Any, int]]  # what the embedder takes, and flags; a UserError says why not
    embed: Callable[[list[Any], int], Features]


def embed_sounds(
    paths: Sequence[Path],
    embedder: Embedder,
    folder: Path | None = None,
    batch_size: int = BATCH,
    keep_silent: bool = False,
) -> Embedded[Path]:
    """Embeddings of sound files of any rate and format.

    Args:
        folder: the cache, one for all embedders; None keeps nothing.
        batch_size: files, and windows of a batch.
        keep_silent: silence counts like any other sound, as it should for what a generator made.

    Raises:
        UserError: the embedder takes no sounds, or the cache is damaged. A file that cannot be used is no error.
    """

    def opened(path: Path) -> tuple[np.ndarray, int]:
        wave, is_clipped = clips.read(path, embedder.sample_rate)
        return wave, SILENT * clips.is_silent(wave) + CLIPPED * is_clipped

    medium = _Medium("sounds", _digest, opened, embedder.hear)
    return _embed(paths, medium, embedder, folder, batch_size, keep_silent)


def embed_pictures(
    paths: Sequence[Path],
    embedder: Embedder,
    folder: Path | None = None,
    batch_size: int = BATCH,
    keep_blank: bool = True,
) -> Embedded[Path]:
    """Embeddings of picture files; arguments and errors as `embed_sounds`.

    Args:
        keep_blank: a picture of one colour counts like any other.
    """
    medium = _Medium("pictures", _digest, open_picture, embedder.look)
    return _embed(paths, medium, embedder, folder, batch_size, keep_blank)


def embed_texts(
    texts: Sequence[str], embedder: Embedder, folder: Path | None = None, batch_size: int = BATCH
) -> Embedded[str]:
    """Embeddings of texts, each computed once; arguments and errors as `embed_sounds`."""

    def embed(few: list[str], batch_size: int) -> Features:
        return Features(embedder.texts(few, batch_size), None)

    def digest(text: str) -> bytes:
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    medium = _Medium("texts", digest, lambda text: (text, 0), embed)
    return _embed(texts, medium, embedder, folder, batch_size)


def _embed(
    items: Sequence[Any],
    medium: _Medium,
    embedder: Embedder,
    folder: Path | None,
    batch_size: int,
    keep_empty: bool = True,
) -> Embedded[Any]:
    embedder.require(medium.name)
    store = Store(folder and _folder_of(embedder, medium.name, folder))
    digests, reasons = _digests(items, medium)
    missing = {digest: item for item, digest in digests.items() if digest not in store.rows}
    faults = _compute(missing, medium, store, batch_size, embedder.name.partition("@")[0])
    rows = {item: store.rows[digest] for item, digest in digests.items() if digest in store.rows}
    reasons |= {item: faults[digest] for item, digest in digests.items() if digest in faults}
    if not keep_empty:
        reason = "silent" if medium.name == "sounds" else "of one colour"
        reasons |= {item: reason for item, row in rows.items() if row.flags & SILENT}
    kept = [item for item in items if item not in reasons]
    has_logits = bool(embedder.labels) and medium.name != "texts"
    return Embedded(
        _stack([rows[item].embedding for item in kept], embedder.dim),
        kept,
        [(item, reasons[item]) for item in items if item in reasons],
        _stack([rows[item].logits for item in kept], len(embedder.labels)) if has_logits else None,
        [item for item in items if item in rows and rows[item].flags & SILENT],
        [item for item in items if item in rows and rows[item].flags & CLIPPED],
        len(missing) - len(faults),
    )


def key_facts(embedder: Embedder, medium: str) -> dict[str, Any]:
    """All that decides the numbers of an item, beside its content."""
    libraries = {name: version(name) for name in ("torch", "transformers")}
    return {"medium": medium, "format": FORMAT, **embedder.facts(), **libraries}


def _folder_of(embedder: Embedder, medium: str, folder: Path) -> Path:
    """The folder's name is readable, and holds a hash of all that decides the numbers."""
    facts = key_facts(embedder, medium)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    own = folder / f"{files.safe_name(embedder.name, 60)}-{medium}-{key}"
    if not (own / "facts.json").is_file():
        files.write_json(own / "facts.json", facts)
    return own


def _digests(items: Sequence[Any], medium: _Medium) -> tuple[dict[Any, bytes], dict[Any, str]]:
    """The hash of each item, and why some have none."""
    digests, reasons = {}, {}
    with ThreadPoolExecutor(READERS) as pool:
        futures = {item: pool.submit(medium.digest, item) for item in items}
        for item, future in tqdm(futures.items(), desc=f"hash {medium.name}", leave=False, disable=len(futures) < 1000):
            try:
                digests[item] = future.result()
            except OSError as error:
                reasons[item] = f"cannot be read ({error.strerror})"
    return digests, reasons


def _compute(missing: dict[bytes, Any], medium: _Medium, store: Store, batch_size: int, title: str) -> dict[bytes, str]:
    """Fill the store; returns why some could not be embedded."""
    faults: dict[bytes, str] = {}
    with (
        ThreadPoolExecutor(READERS) as pool,
        tqdm(total=len(missing), desc=title, unit=medium.name[:-1], delay=SHOW_AFTER, leave=None) as bar,
    ):
        try:
            for batch in _ahead(pool, medium.open, missing.items(), batch_size):
                opened: dict[bytes, tuple[Any, int]] = {}
                for digest, future in batch:
                    try:
                        opened[digest] = future.result()
                    except UserError as error:
                        faults[digest] = str(error).removeprefix(f"{missing[digest]}: ")
                faults |= _store_batch(opened, medium, store, batch_size)
                bar.update(len(batch))
        finally:
            store.flush()  # Ctrl-C and errors, too
    return faults


def _ahead(
    pool: ThreadPoolExecutor, open_one: Callable[[Any], Any], items: Iterable[tuple[bytes, Any]], size: int
) -> Iterator[list[tuple[bytes, Future[Any]]]]:
    """Batches of `size`; while one is embedded, the next is read."""
    items, ready = iter(items), []
    while batch := list(itertools.islice(items, size)):
        coming = [(digest, pool.submit(open_one, item)) for digest, item in batch]
        if ready:
            yield ready
        ready = coming
    if ready:
        yield ready


def _store_batch(
    opened: dict[bytes, tuple[Any, int]], medium: _Medium, store: Store, batch_size: int
) -> dict[bytes, str]:
    if not opened:
        return {}
    embeddings, logits = medium.embed([content for content, _ in opened.values()], batch_size)
    faults = {}
    for index, (digest, (_, flags)) in enumerate(opened.items()):
        classes = np.zeros(0, np.float32) if logits is None else logits[index].numpy()
        row = Row(embeddings[index].numpy(), classes, flags)
        if np.isfinite(row.embedding).all() and np.isfinite(row.logits).all():
            store.add(digest, row)
        else:
            faults[digest] = "its embedding is not finite"
    return faults


def _stack(rows: list[np.ndarray], width: int) -> Tensor:
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, width)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def open_picture(path: Path) -> tuple[Image.Image, int]:
    """RGB, and SILENT if it is of one colour; raises a UserError for what cannot be looked at."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not readable as a picture") from error
    if min(picture.size) < SMALLEST:
        width, height = picture.size
        raise UserError(f"{path}: {width} x {height} pixels, below {SMALLEST} x {SMALLEST}")
    pixels = np.asarray(picture)
    return picture, SILENT * bool((pixels == pixels[0, 0]).all())
