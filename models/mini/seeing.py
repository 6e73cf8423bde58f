"""Pictures of the miniature world as its frozen judge sees them, as scores of a result."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sonolume.models.evaluation.embedders.base import hash_of
from sonolume.models.evaluation.results import Result
from sonolume.models.mini import scores
from sonolume.models.mini.picture_judge import pipeline as picture_judge
from sonolume.modules.judges import WEIGHTS_FILE
from sonolume.modules.metrics.interval import Share
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import paths

JUDGE = "pretrained/mini/picture_judge"
SIDE = 64  # pixels
TITLES = {"single": "right kind of picture", "then: both": "then: both kinds", "over: both": "over: both kinds"}


def judge() -> str:
    """Its name with a hash of the weights, for fingerprints."""
    folder = paths.root() / JUDGE
    return f"{folder.name}@{hash_of(folder / 'config.json', folder / WEIGHTS_FILE)}"


def load(files: Sequence[Path]) -> Tensor:
    """Pictures of any size as the judge takes them: (N, 3, 64, 64) in 0..1."""
    pictures = []
    for path in files:
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def shares(pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, Share]:
    """What share of pictures (N, 3, 64, 64) shows what was asked for, by the name of the score."""
    return scores.picture_rows(picture_judge.look(picture_judge.load(paths.root() / JUDGE), pictures), scenes)


def add_shares(result: Result, scenes: Sequence[Scene], generated: Tensor, beside: Mapping[str, Tensor]) -> None:
    """The shares beside chance and other pictures.

    Args:
        scenes: N, what was asked for.
        generated: (N, 3, 64, 64) in 0..1.
        beside: the same of others, by the name of their column, such as real pictures.
    """
    columns = {name: shares(pictures, scenes) for name, pictures in beside.items()}
    for name, share in shares(generated, scenes).items():
        if share.total:
            others = {column: rows[name] for column, rows in columns.items()}
            title = TITLES.get(name, name)
            result.add_share(title, share, scores.CHANCE[name], others, headline=name in TITLES)


def kinds(pictures: Tensor) -> list[str]:
    """The likeliest kind of each picture (N, 3, 64, 64) in 0..1."""
    looking = picture_judge.load(paths.root() / JUDGE)
    return [looking.kinds[index] for index in picture_judge.look(looking, pictures).presence.argmax(-1).tolist()]
