"""Sounds of the miniature world as its two frozen judges hear them, as scores of a result."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from sonolume.models.evaluation.embedders.base import hash_of
from sonolume.models.evaluation.results import Result
from sonolume.models.mini import scores
from sonolume.models.mini.sound_judge import pipeline as sound_judge
from sonolume.modules.judges import WEIGHTS_FILE
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import paths

JUDGES = ("pretrained/mini/sound_judge", "pretrained/mini/sound_judge_second")
SECOND = "second judge"
MAIN = ("single", "count", "then: both", "over: both")  # go into the README


def judges() -> list[str]:
    """Names with a hash of the weights, for fingerprints."""
    folders = [paths.root() / folder for folder in JUDGES]
    return [f"{folder.name}@{hash_of(folder / 'config.json', folder / WEIGHTS_FILE)}" for folder in folders]


def add_shares(result: Result, scenes: Sequence[Scene], generated: Tensor, beside: Mapping[str, Tensor]) -> None:
    """What share of sounds holds what was asked for, beside chance, other sounds, and the second judge's opinion.

    Args:
        scenes: N, what was asked for.
        generated: ln mels (N, M, T).
        beside: the same of others, by the name of their column, such as real renderings.
    """
    first, second = (sound_judge.load(paths.root() / folder) for folder in JUDGES)
    columns = {name: scores.rows(sound_judge.listen(first, mels), scenes) for name, mels in beside.items()}
    columns[SECOND] = scores.rows(sound_judge.listen(second, generated), scenes)
    for name, share in scores.rows(sound_judge.listen(first, generated), scenes).items():
        others = {column: rows[name] for column, rows in columns.items()}
        result.add_share(name, share, scores.CHANCE[name], others, headline=name in MAIN)
