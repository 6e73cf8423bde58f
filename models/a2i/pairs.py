"""Training data of the audio-to-image recipes: windows of sound paired with pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.audio_to_image import TrainingPairsConfig, TrainingPicturesConfig
from sonolume.models.a2i.sound_windows import Windows, concatenate
from sonolume.preprocessors.sound_pictures import is_complete, pictures_of, read_split
from sonolume.utils import image


class PairDataset(Dataset[Any]):
    """Base of a recipe's data set: each epoch pairs one window of a clip with one picture of the same time.

    A recipe adds `__getitem__((epoch, index))`, which begins with `draw_pair`. Windows and images are numbered over all
    clips; those of clip i are `first_window[i]` to `first_window[i + 1]`, and likewise the images.
    """

    def __init__(
        self, config: TrainingPairsConfig, datasets: Sequence[str], split: str, seed: int, sample_rate: int
    ) -> None:
        self.config, self.seed = config, seed
        self.rows = read_split(config, datasets, split, is_complete, "a sound with pictures")
        self.windows = Windows(self.rows, config, sample_rate)
        self.starts, self.first_window = self.windows.starts, self.windows.first
        pictures = [pictures_of(row) for row in self.rows]
        seconds = [[math.nan if time is None else time for time, _ in group] for group in pictures]
        self.times, self.first_image = concatenate(seconds)
        self.images = Images([path for group in pictures for _, path in group], config)

    def __len__(self) -> int:
        return len(self.rows)

    def draw_pair(self, epoch: int, index: int) -> tuple[int, int]:
        """Draw the numbers of a window of a clip, and of an image of the same time."""
        random = np.random.default_rng([self.seed, epoch, index])
        window = self.windows.draw(index, random)
        return window, int(random.choice(self.images_during(index, self.starts[window])))

    def images_during(self, index: int, start: float) -> np.ndarray:
        """Numbers of a clip's images in the window from `start` on, else of the nearest; a still one is in all."""
        numbers = np.arange(self.first_image[index], self.first_image[index + 1])
        half = self.config.input_length / 2
        distance = np.nan_to_num(np.abs(self.times[numbers] - (start + half)))
        inside = numbers[distance <= half]
        return inside if len(inside) else numbers[[int(distance.argmin())]]


class Images(Dataset[Tensor]):
    """Images (3, height, width) in [-1, 1]."""

    def __init__(self, files: Sequence[Path], config: TrainingPicturesConfig) -> None:
        self.files, self.config = files, config

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        picture = image.open_image(self.files[number])
        if self.config.center_crop:
            picture = ImageOps.fit(picture, (min(picture.size), min(picture.size)))
        picture = picture.resize((self.config.width, self.config.height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1)

    def versions(self) -> list[Any]:
        """Everything that decides the images, for the key of a cache."""
        size = self.config.width, self.config.height, self.config.center_crop
        return [*size, [(str(path), path.stat().st_mtime_ns) for path in self.files]]
