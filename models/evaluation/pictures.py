"""Scores of a set of pictures against a reference set, captions, labels and sounds, by any embedder of pictures.

FID, KID and IS are those of the embedder that is named, not of Inception. The forms of AIS, IIS and AIC are those of
SonicDiffusion's evaluation; AudioToken, which named them, released none. Every score's remark says its form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sonolume.models.evaluation import scoring
from sonolume.models.evaluation.embedders.base import Embedder
from sonolume.models.evaluation.results import Result
from sonolume.models.evaluation.scoring import PICTURE, SOUND, Scored, Side
from sonolume.modules.metrics.similarity import cosine_matrix, rank_share


@dataclass
class Pictures:
    """What is compared, by Uid."""

    generated: Mapping[str, Path]
    reference: Mapping[str, Path] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    sounds: Mapping[str, Path] = field(default_factory=dict)
    """what the pictures were made from"""


def score(result: Result, pictures: Pictures, embedder: Embedder, cache: Path | None, batch_size: int) -> None:
    """Add to `result` all that one embedder can tell; arguments and errors as of `sounds.score`."""
    scored = Scored(result, embedder, cache, batch_size)
    made = scoring.embed(scored, PICTURE, pictures.generated, "generated")
    if pictures.reference:
        real = scoring.embed(scored, PICTURE, pictures.reference, "reference")
        scoring.distances(scored, PICTURE, real, made)
        _image_image(scored, *scoring.pairs(scored, real, made))
    told = scoring.classes(scored, made, pictures.labels)
    if "texts" in embedder.takes:
        scoring.texts(scored, PICTURE, made, pictures.captions)
        if not told:
            scoring.zero_shot(scored, PICTURE, made, pictures.labels)
    if "sounds" in embedder.takes and pictures.sounds:
        scoring.across(scored, PICTURE, made, SOUND, pictures.sounds)


def _image_image(scored: Scored, made: Side, real: Side) -> None:
    """IIS of generated pictures and their references, row by row."""
    if len(made.uids) < 2:
        return
    ranked = rank_share(cosine_matrix(made.rows, real.rows))
    note = f"rank form: the share of the other {len(made.uids) - 1} references less like the picture than its own"
    scored.result.add_mean(f"IIS {scored.name}", ranked, made.uids, chance=0.5, note=note, list_worst=False)
