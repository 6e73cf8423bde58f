"""Scores of a set of sounds against a reference set, captions, labels and pictures, by any embedder of sounds.

An embedder gives what it can: distances of distributions always; divergences, inception score and class accuracy if it
tells classes; agreement with texts and retrieval if it reads texts; with pictures if it sees them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sonolume.models.evaluation import scoring
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.scoring import PICTURE, SOUND, Scored
from sonolume.modules.metrics.frechet import Moments


@dataclass
class Sounds:
    """What is compared, by Uid."""

    generated: Mapping[str, Path]
    reference: Mapping[str, Path] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    """what the sounds were made from"""
    videos: Mapping[str, Path] = field(default_factory=dict)
    """likewise; then `reference` tells when they ought to begin"""


def score(
    result: Result,
    sounds: Sounds,
    embedder: Embedder,
    cache: Path | None,
    batch_size: int,
    known: Moments | None = None,
    keep: bool = True,
) -> None:
    """Add to `result` all that one embedder can tell.

    Args:
        cache: folder of embeddings; None keeps nothing.
        known: of a reference that was embedded before: the Frechet distance is from it, and `sounds.reference` serves
            the pairs alone.
        keep: the cache keeps the embeddings of the generated sounds, too.

    Raises:
        UserError: not one usable file on a side.
    """
    scored = Scored(result, embedder, cache, batch_size)
    made = scoring.embed(scored if keep else replace(scored, cache=None), SOUND, sounds.generated, "generated")
    if sounds.reference:
        real = scoring.embed(scored, SOUND, sounds.reference, "reference")
        if known is None:
            scoring.distances(scored, SOUND, real, made)
        scoring.pairs(scored, real, made)
    if known is not None:
        scoring.frechet(scored, SOUND, known, made)
    told = scoring.classes(scored, made, sounds.labels)
    if "texts" in embedder.takes:
        scoring.texts(scored, SOUND, made, sounds.captions)
        if not told:
            scoring.zero_shot(scored, SOUND, made, sounds.labels)
    if "pictures" in embedder.takes and sounds.pictures:
        scoring.across(scored, SOUND, made, PICTURE, sounds.pictures)
