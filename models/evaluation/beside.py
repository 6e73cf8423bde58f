"""What a score is held against: the same score of something better or worse, in columns beside it, and chance."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sonolume.models.evaluation.results import Result


def put_beside(result: Result, other: Result, column: str) -> None:
    """Each score of `other` stands in `column` beside the score of the same name in `result`."""
    theirs = {score.name: score for score in other.scores}
    for score in result.scores:
        if score.name in theirs:
            found = theirs[score.name]
            score.beside = {**score.beside, column: (found.value, found.low, found.high)}


def shifted(generated: Mapping[str, Path], uids: Sequence[str]) -> dict[str, Path]:
    """To each Uid the sample of the next one, as a generator that ignores its input would give."""
    known = [uid for uid in uids if uid in generated]
    return {uid: generated[other] for uid, other in zip(known, known[1:] + known[:1], strict=True)}


def put_chance(result: Result, other: Result) -> None:
    """Scores of single samples get as chance what they are in `other`, a result of `shifted` samples."""
    single = {name for name, _, _ in other.outliers}
    values = {score.name: score.value for score in other.scores if score.name in single}
    for score in result.scores:
        if score.chance is None and score.name in values:
            score.chance = values[score.name]
