"""Embed many files with a cache on disk: nothing is computed twice, and an interrupted run resumes.

A key is the sha256 of a file's content. A folder of the cache belongs to one embedder in one version, with one window,
sample rate and resampler.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from sonolume.models.evaluation.embedders.base import BATCH_SIZE, Embedder, batched
from sonolume.models.evaluation.samples import read_sound
from sonolume.modules.metrics.embeddings import Moments
from sonolume.utils import audio, files
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError, first_line
from sonolume.utils.image import open_image

CACHE_VERSION = 4  # increase it when embeddings are computed differently or flags change their meaning
READER_THREADS = 4
EMPTY, CLIPPED = 1, 2  # flags: a silent sound or a picture of one colour; a sound with flat tops
REASONS = {"sounds": "silent", "pictures": "of one colour", "texts": ""}  # for leaving out an empty item
MIN_PIXELS = 16  # of a picture's shorter side: processors take fewer for colour channels
PROGRESS_DELAY = 1.0  # seconds until a progress bar appears
FLUSH_SECONDS = 30.0  # longest work that a crash can lose
FLUSH_ROWS = 4096
EMBEDDINGS = "embeddings"  # folder of the cached embeddings among other caches


class Row(NamedTuple):
    embedding: Tensor  # (d,) float32
    logits: Tensor  # (K,) float32, or (0,) without a classifier
    flags: int


class Store:
    """Rows by the hash of their item, in memory and in shards of `folder`, unless that is None.

    A shard is whole or absent; a UserError is raised for a damaged one.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.rows = folder, dict[bytes, Row]()
        self._unsaved, self._saved_at = list[bytes](), time.monotonic()
        for path in sorted(folder.glob("[0-9a-f]*.safetensors")) if folder else []:
            shard = _load(path)
            rows = map(Row, shard["embeddings"], shard["logits"], shard["flags"].tolist())
            self.rows |= {key.tobytes(): row for key, row in zip(shard["keys"].numpy(), rows, strict=True)}

    def add(self, key: bytes, row: Row) -> None:
        """Add a row; it is on disk after the next `flush`, which also happens by itself from time to time."""
        self.rows[key] = row
        self._unsaved.append(key)
        if len(self._unsaved) >= FLUSH_ROWS or time.monotonic() - self._saved_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the new rows as one shard, named by a hash of their keys."""
        self._saved_at = time.monotonic()
        if self.folder and self._unsaved:
            embeddings, logits, flags = zip(*(self.rows[key] for key in self._unsaved), strict=True)
            shard = {"embeddings": torch.stack(embeddings), "logits": torch.stack(logits), "flags": torch.tensor(flags)}
            shard["keys"] = torch.tensor([list(key) for key in self._unsaved], dtype=torch.uint8)
            with files.atomic_path(self.folder / f"{content_hash(*self._unsaved)}.safetensors") as path:
                save_file(shard, path)
        self._unsaved = []


def _load(path: Path) -> dict[str, Tensor]:
    """Read tensors; raises a UserError for a damaged file."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({first_line(error, 80)}); remove it to compute it again") from error


class Embedded(NamedTuple):
    """Embeddings of the usable items, in the order of the items."""

    embeddings: Tensor  # (N, d) float32
    logits: Tensor | None  # (N, K), None without a classifier and for texts
    kept: list[Any]  # the N items
    left_out: Sequence[tuple[Any, str]] = ()  # all other items, with the reason
    empty: Sequence[Any] = ()  # sounds that stay below -80 dB of full scale, and pictures of one colour, kept or not
    clipped: Sequence[Any] = ()  # sounds with flat tops at full scale; they are kept
    computed: int = 0  # number of items that were not in the cache

    def select(self, items: list[Any]) -> "Embedded":
        """Select the rows of these kept items, in this order."""
        places = {item: place for place, item in enumerate(self.kept)}
        chosen = torch.tensor([places[item] for item in items], dtype=torch.long)
        return Embedded(self.embeddings[chosen], None if self.logits is None else self.logits[chosen], items)


def embed(
    items: Sequence[Any], medium: str, embedder: Embedder, folder: Path | None = None, batch_size: int = BATCH_SIZE,
    keep_empty: bool = False,
) -> Embedded:  # fmt: skip
    """Embed files of any format and rate, or texts; each distinct content once.

    Args:
        items: paths of "sounds" or "pictures", or "texts", as `medium` names them; unusable files are left out.
        folder: cache, shared by all embedders; None for none.
        batch_size: files read ahead, and windows of a batch.
        keep_empty: keep silent sounds and pictures of one colour, which count like any other output of a generator.

    Raises:
        UserError: the embedder does not take this medium, or the cache is damaged.
    """
    embedder.require(medium)
    if folder:  # the embedder's own, which describes itself in facts.json
        facts = _facts(embedder, medium)
        folder = folder / f"{files.safe_name(embedder.name, 60)}-{medium}-{content_hash(facts)}"
        if not (folder / "facts.json").is_file():
            files.write_json(folder / "facts.json", facts)
    store = Store(folder)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        hashes = pool.map(partial(_attempt, _hash), items)
        bar = tqdm(hashes, f"hash {medium}", len(items), leave=False, disable=len(items) < 1000)
        hashed = dict(zip(items, bar, strict=True))
    missing = {key: item for item, (key, reason) in hashed.items() if not reason and key not in store.rows}
    faults = _compute(missing, medium, embedder, store, batch_size)
    rows = {item: store.rows[key] for item, (key, _) in hashed.items() if key in store.rows}
    reasons = {item: reason or faults.get(key) for item, (key, reason) in hashed.items()}  # None: usable
    if not keep_empty:
        reasons |= {item: REASONS[medium] for item, row in rows.items() if row.flags & EMPTY}
    kept = [item for item in items if not reasons[item]]
    classified, of_none = embedder.labels and medium != "texts", torch.zeros(0, len(embedder.labels))
    return Embedded(
        torch.cat([torch.zeros(0, embedder.dim), *(rows[item].embedding[None] for item in kept)]),
        torch.cat([of_none, *(rows[item].logits[None] for item in kept)]) if classified else None,
        kept,
        [(item, reason) for item in items if (reason := reasons[item])],
        [item for item in items if item in rows and rows[item].flags & EMPTY],
        [item for item in items if item in rows and rows[item].flags & CLIPPED],
        len(missing) - len(faults),
    )


def reference_moments(
    key: Any, sounds: Callable[[], Mapping[str, Path]], embedder: Embedder, folder: Path, batch_size: int
) -> Moments | None:
    """Mean and covariance of the embeddings of a reference set, cached; None for fewer than two usable sounds.

    Args:
        key: plain values that change with the content of the sounds.
        sounds: returns Uid -> file; called only if the cache has nothing.
        folder: of all caches of a data set. Processes that start together compute once.
    """

    def compute(place: Path) -> None:
        found = embed(list(sounds().values()), "sounds", embedder, folder / EMBEDDINGS, batch_size)
        state = {"count": torch.tensor(len(found.kept))}
        if len(found.kept) > 1:
            moments = Moments.of(found.embeddings)
            state |= {"mean": moments.mean, "covariance": moments.covariance}
        save_file(state, place / "moments.safetensors")

    facts = {"reference": key, **_facts(embedder, "sounds")}
    place = cached(folder / "statistics", facts, compute, f"{embedder.name:.60} statistics")
    state = _load(place / "moments.safetensors")
    return Moments(state["mean"], state["covariance"], int(state["count"])) if "mean" in state else None


def _facts(embedder: Embedder, medium: str) -> dict[str, Any]:
    """Everything that determines an embedding besides the content of the item."""
    libraries = {name: version(name) for name in ("torch", "transformers")}
    return {"medium": medium, "format": CACHE_VERSION, **embedder.facts(), **libraries}


def _hash(item: Path | str) -> bytes:
    """Hash the content of a file, or a text."""
    if isinstance(item, str):
        return hashlib.sha256(item.encode("utf-8", "surrogatepass")).digest()
    with item.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _attempt(function: Callable[[Any], Any], item: Any) -> tuple[Any, str]:
    """Return (result, "") or (None, reason of the failure)."""
    try:
        return function(item), ""
    except UserError as error:
        return None, str(error).removeprefix(f"{item}: ")
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"


def _open(item: Any, medium: str, sample_rate: int) -> tuple[Any, int]:
    """Read the input of the embedder, with its flags."""
    if medium == "sounds":
        wave, is_clipped = read_sound(item, sample_rate)
        return wave, EMPTY * audio.is_silent(wave) + CLIPPED * is_clipped
    if medium == "pictures":
        picture = open_image(item)
        if min(picture.size) < MIN_PIXELS:
            width, height = picture.size
            raise UserError(f"{item}: {width} x {height} pixels, below {MIN_PIXELS} x {MIN_PIXELS}")
        pixels = np.asarray(picture)
        return picture, EMPTY * bool((pixels == pixels[0, 0]).all())
    return item, 0


def _compute(
    missing: dict[bytes, Any], medium: str, embedder: Embedder, store: Store, batch_size: int
) -> dict[bytes, str]:
    """Fill the store; returns the reasons why some items could not be embedded. Reads one batch ahead."""
    faults, title = dict[bytes, str](), embedder.name.partition("@")[0]
    open_item = partial(_attempt, partial(_open, medium=medium, sample_rate=embedder.sample_rate))
    ahead: tuple[Sequence[bytes], Iterable[tuple[Any, str]]] = [], []  # keys of a batch, and what is read for them
    with (
        ThreadPoolExecutor(READER_THREADS) as pool,
        tqdm(total=len(missing), desc=title, unit=medium[:-1], delay=PROGRESS_DELAY, leave=None) as bar,
    ):
        try:
            for following in [*batched(list(missing), batch_size), []]:
                batch, ahead = ahead, (following, pool.map(open_item, [missing[key] for key in following]))
                results = dict(zip(*batch, strict=True))
                faults |= {key: reason for key, (_, reason) in results.items() if reason}
                opened = {key: content for key, (content, reason) in results.items() if not reason}
                faults |= _encode(opened, medium, embedder, store, batch_size)
                bar.update(len(results))
        finally:
            store.flush()  # also after Ctrl-C and errors
    return faults


def _encode(
    opened: dict[bytes, tuple[Any, int]], medium: str, embedder: Embedder, store: Store, batch_size: int
) -> dict[bytes, str]:
    """Embed a batch into the store; returns the items whose embedding is not finite."""
    contents, faults = [content for content, _ in opened.values()], dict[bytes, str]()
    encoders = {"sounds": embedder.encode_audio, "pictures": embedder.encode_images, "texts": embedder.encode_texts}
    found = encoders[medium](contents, batch_size)
    logits = torch.zeros(len(contents), 0) if found.logits is None else found.logits
    for (key, (_, flags)), embedding, own in zip(opened.items(), found.embeddings, logits, strict=True):
        if embedding.isfinite().all() and own.isfinite().all():
            store.add(key, Row(embedding, own, flags))
        else:
            faults[key] = "its embedding is not finite"
    return faults
