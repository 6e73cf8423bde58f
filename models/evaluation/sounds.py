"""Scores of a set of sounds against a reference set and its captions, by any embedders.

An embedder gives what it can: distances of distributions always; divergences, inception score and class accuracy if it
tells classes; agreement with texts and retrieval if it reads texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sonolume.models.embedders.base import Embedder
from sonolume.models.embedders.cache import Embedded, embed_sounds, embed_texts
from sonolume.models.evaluation.results import Result, Score
from sonolume.modules.metrics.classes import correct, inception_score, paired_divergence
from sonolume.modules.metrics.frechet import RELIABLE, frechet_distance, frechet_infinity, is_reliable
from sonolume.modules.metrics.kernel import kernel_distance
from sonolume.modules.metrics.retrieval import mean_reciprocal_rank, ranks, recall_at
from sonolume.modules.metrics.similarity import cosine_matrix, cosines
from sonolume.utils.errors import UserError

RECALLS = (1, 5, 10)


@dataclass
class Sounds:
    """What is compared, by Uid."""

    generated: Mapping[str, Path]
    reference: Mapping[str, Path] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def score(result: Result, sounds: Sounds, embedder: Embedder, cache: Path | None, batch_size: int) -> None:
    """Add to `result` all that one embedder can tell.

    Raises:
        UserError: not one usable sound on a side.
    """
    made = _embed(result, sounds.generated, embedder, cache, batch_size, generated=True)
    name = embedder.name.partition("@")[0]
    if sounds.reference:
        real = _embed(result, sounds.reference, embedder, cache, batch_size, generated=False)
        _distances(result, name, real.rows, made.rows)
        _pairs(result, name, real, made)
    if made.logits is not None:
        _classes(result, name, made, sounds.labels, embedder.labels)
    if "texts" in embedder.takes and sounds.captions:
        _texts(result, name, made, sounds.captions, embedder, cache, batch_size)


@dataclass
class _Side:
    uids: list[str]
    rows: Tensor  # (N, d)
    logits: Tensor | None  # (N, K)

    def of(self, uids: Sequence[str]) -> "_Side":
        """The rows of these Uids, in this order."""
        place = {uid: index for index, uid in enumerate(self.uids)}
        chosen = torch.tensor([place[uid] for uid in uids], dtype=torch.long)
        return _Side(list(uids), self.rows[chosen], None if self.logits is None else self.logits[chosen])


def _embed(
    result: Result, files: Mapping[str, Path], embedder: Embedder, cache: Path | None, batch_size: int, generated: bool
) -> _Side:
    """Silence is a fault of a reference, but a sample like any other of a generator."""
    found: Embedded[Path] = embed_sounds(list(files.values()), embedder, cache, batch_size, keep_silent=generated)
    side = "generated" if generated else "reference"
    result.counts |= {f"silent {side}": len(found.silent), f"clipped {side}": len(found.clipped)}
    known = set(result.left_out)
    result.left_out += [entry for path, reason in found.left_out if (entry := (str(path), reason)) not in known]
    if not found.kept:
        raise UserError(f"not one usable {side} sound among {len(files)}: {found.left_out[:1]}")
    kept = set(found.kept)
    return _Side([uid for uid, path in files.items() if path in kept], found.embeddings, found.logits)


def _distances(result: Result, name: str, real: Tensor, made: Tensor) -> None:
    count, dim = made.shape
    if min(len(real), count) < 2:
        return
    smaller = min(len(real), count)
    note = "" if is_reliable(smaller, dim) else f"N {smaller} is below {RELIABLE} x {dim}: mostly the sample's size"
    result.scores.append(Score(f"FAD {name}", frechet_distance(real, made), "down", count=count, note=note))
    if count >= 16:
        unbiased = frechet_infinity(real, made).value
        result.scores.append(Score(f"FAD-infinity {name}", unbiased, "down", count=count, note=note))
    mean, deviation = kernel_distance(real, made)
    spread = f"deviation {deviation:.2g} over subsets" if deviation else ""
    result.scores.append(Score(f"KID {name}", mean, "down", count=count, note=spread))


def _pairs(result: Result, name: str, real: _Side, made: _Side) -> None:
    both = [uid for uid in made.uids if uid in set(real.uids)]
    if not both:
        return
    ours, theirs = made.of(both), real.of(both)
    result.add_mean(f"cosine to the reference {name}", cosines(ours.rows, theirs.rows), both)
    if ours.logits is not None and theirs.logits is not None:
        for kind, multilabel in (("softmax", False), ("sigmoid", True)):
            divergence = paired_divergence(theirs.logits, ours.logits, multilabel)
            result.add_mean(f"KL {kind} {name}", divergence, both, better="down")


def _classes(result: Result, name: str, made: _Side, labels: Mapping[str, str], known: Sequence[str]) -> None:
    assert made.logits is not None
    mean, _ = inception_score(made.logits)
    note = f"of at most {made.logits.shape[1]}"
    result.scores.append(Score(f"IS {name}", mean, "up", count=len(made.uids), note=note, chance=1.0))
    places = {label.lower(): index for index, label in enumerate(known)}
    told = [uid for uid in made.uids if labels.get(uid, "").lower() in places]
    if told:
        wanted = torch.tensor([places[labels[uid].lower()] for uid in told])
        right = correct(made.of(told).logits, wanted)  # type: ignore[arg-type]
        result.add_mean(f"class accuracy {name}", right, told, chance=1 / len(known))


def _texts(
    result: Result,
    name: str,
    made: _Side,
    captions: Mapping[str, str],
    embedder: Embedder,
    cache: Path | None,
    batch_size: int,
) -> None:
    told = [uid for uid in made.uids if uid in captions]
    if not told:
        return
    ours = made.of(told).rows
    texts = embed_texts([captions[uid] for uid in told], embedder, cache, batch_size).embeddings
    result.add_mean(f"text agreement {name}", cosines(ours, texts), told)
    if len(told) < 2:
        return
    similarity = cosine_matrix(texts, ours)  # (texts, sounds)
    for way, matrix in (("text to sound", similarity), ("sound to text", similarity.T)):
        found = ranks(matrix, _same_captions([captions[uid] for uid in told]))
        for k in (k for k in RECALLS if k < len(told)):
            result.add_mean(f"R@{k} {way} {name}", recall_at(found, k), told, list_worst=False, chance=k / len(told))
        result.scores.append(Score(f"MRR {way} {name}", mean_reciprocal_rank(found), count=len(told)))


def _same_captions(captions: Sequence[str]) -> Tensor:
    """(N, N) bool: sounds of the same caption are right answers for each other."""
    return torch.tensor([[a == b for b in captions] for a in captions])
