"""Data of the picture judge: pictures of scenes, drawn as training goes."""

import argparse

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sonolume.config.base import MiniworldConfig
from sonolume.config.mini.picture_judge import Config
from sonolume.models.mini.truth import picture_truth
from sonolume.models.training import TrainingData
from sonolume.modules.judges import PictureJudgement
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.pictures import picture
from sonolume.preprocessors.miniworld.scene import Scene


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Nothing to prepare."""
    print(f"{config.recipe}: pictures are drawn as training goes; nothing to prepare")


def training_data(config: Config) -> TrainingData:
    """Batches: picture (B, 3, 64, 64) in 0..1 and truth."""
    mini = config.miniworld
    return TrainingData(
        ScenePictures(mini, "train", mini.train_scenes),
        ScenePictures(mini, "valid", mini.valid_scenes),
        default_collate,
    )


def draw(scene: Scene) -> Tensor:
    """The picture of a scene, (3, 64, 64) in 0..1."""
    return torch.tensor(picture(scene)).permute(2, 0, 1) / 255


class ScenePictures(Dataset[tuple[Tensor, PictureJudgement]]):
    """Pictures with the truth about them."""

    def __init__(self, config: MiniworldConfig, split: str, count: int) -> None:
        self.scenes = list(world.scenes(split, count, config.seed, list(config.kinds)))

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, PictureJudgement]:
        scene = self.scenes[item[1]]
        return draw(scene), picture_truth(scene)
