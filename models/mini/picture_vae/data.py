"""Data of the picture autoencoder: pictures of scenes, drawn as training goes."""

import argparse

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sonolume.config.base import MiniworldConfig
from sonolume.config.mini.picture_vae import Config
from sonolume.models.mini.picture_judge.data import draw
from sonolume.models.training import TrainingData
from sonolume.preprocessors.miniworld import world


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Nothing to prepare."""
    print(f"{config.recipe}: pictures are drawn as training goes; nothing to prepare")


def training_data(config: Config) -> TrainingData:
    """Batches of pictures (B, 3, 64, 64) in -1..1."""
    mini = config.miniworld
    train, valid = (
        Pictures(mini, split, count) for split, count in (("train", mini.train_scenes), ("valid", mini.valid_scenes))
    )
    return TrainingData(train, valid, default_collate)


class Pictures(Dataset[Tensor]):
    """Pictures (3, 64, 64) in -1..1, as Stable Diffusion's autoencoders take them."""

    def __init__(self, config: MiniworldConfig, split: str, count: int) -> None:
        self.scenes = list(world.scenes(split, count, config.seed, list(config.kinds), config.pairs))

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return 2 * draw(self.scenes[item[1]]) - 1
