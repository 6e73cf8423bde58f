"""Data sets that are generated from scenes of the miniature world while training runs."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.base import MiniworldConfig
from sonolume.preprocessors.miniworld.pictures import picture
from sonolume.preprocessors.miniworld.scene import Scene, scenes
from sonolume.preprocessors.prepared import PROGRESS_DELAY

Item = TypeVar("Item", covariant=True)


class SceneDataset(Dataset[Item]):
    """Items `make(scene, epoch)` of the scenes of one split."""

    def __init__(self, config: MiniworldConfig, split: str, make: Callable[[Scene, int], Item]) -> None:
        self.scenes, self.make = split_scenes(config, split, config.pairs), make

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        return self.make(self.scenes[index], epoch)


def split_scenes(config: MiniworldConfig, split: str, pairs: bool) -> list[Scene]:
    """Draw the scenes of the "train" or "valid" split."""
    count = {"train": config.train_scenes, "valid": config.valid_scenes}[split]
    drawn = scenes(split, count, config.seed, list(config.kinds), pairs)
    return list(tqdm(drawn, f"{split} scenes", count, unit="scene", delay=PROGRESS_DELAY))


def draw(scene: Scene) -> Tensor:
    """Render the picture of a scene: (3, 64, 64) in 0..1."""
    return torch.tensor(picture(scene)).permute(2, 0, 1) / 255
