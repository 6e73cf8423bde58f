"""Sounds of the miniature world with the kinds that are in them: single ones cut, moved and mixed as training goes."""

import argparse
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sonolume.config.base import MiniworldConfig
from sonolume.config.mini.beats import Config
from sonolume.models.training import TrainingData
from sonolume.preprocessors.miniworld import DURATION, SAMPLE_RATE, SAMPLES, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene
from sonolume.preprocessors.miniworld.sounds import NOISE_FLOOR

AT_ONCE = (0.4, 0.45, 0.15)  # shares of one, two and three sounds together
SHORTENED = 0.5  # share of sounds that end early, as in scenes of two
EARLIEST_END = 1.1  # seconds
CUT = 0.6  # share of sounds of which a piece is taken
PIECE = (0.5, 2.4)  # seconds of a piece
HEARD = 0.3  # share of a sound's energy that a piece must hold
TRIES = 8  # pieces drawn before a sound is left whole
BALANCE = (-9.0, 0.0)  # dB, of each sound's peak in a mixture
GAIN = (-18.0, 0.0)  # dB, of the peak of the whole
HISS = 0.01  # largest deviation of white noise


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Nothing to prepare."""
    print(f"{config.recipe}: sounds are made as training goes; nothing to prepare")


def training_data(config: Config) -> TrainingData:
    """Batches: wave (B, 40960) and presence (B, K). Training mixes singles; validation hears the world's scenes."""
    mini = config.miniworld
    return TrainingData(MixedSounds(mini, "train", mini.train_scenes), SceneSounds(mini), default_collate)


class SceneSounds(Dataset[tuple[Tensor, Tensor]]):
    """Scenes of the validation split as they are: wave (40960,) and 1.0 for every kind that sounds (K,)."""

    def __init__(self, config: MiniworldConfig) -> None:
        self.scenes = list(
            world.scenes("valid", config.valid_scenes, config.seed, list(config.kinds), config.pairs)
        )

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        scene = self.scenes[item[1]]
        return torch.from_numpy(world.render(scene)), presence([scene])


class MixedSounds(Dataset[tuple[Tensor, Tensor]]):
    """Up to three single sounds together, drawn anew in every epoch; each is rendered once and kept, 80 kB."""

    def __init__(self, config: MiniworldConfig, split: str, count: int) -> None:
        self.scenes = [_shortened(s) for s in world.scenes(split, count, config.seed, list(config.kinds), pairs=False)]
        self.rendered: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = item
        rng = np.random.default_rng([self.scenes[index].seed, epoch])
        others = rng.integers(0, len(self), size=rng.choice(len(AT_ONCE), p=AT_ONCE))
        chosen = [index, *map(int, others)]
        wave = mix([self._wave(number) for number in chosen], rng)
        return torch.from_numpy(wave), presence([self.scenes[number] for number in chosen])

    def _wave(self, index: int) -> np.ndarray:
        """(40960,) peak 1."""
        if index not in self.rendered:
            wave = world.render(self.scenes[index])
            self.rendered[index] = (wave * (32767 / np.abs(wave).max())).astype(np.int16)
        return self.rendered[index].astype(np.float32) / 32767


def _shortened(scene: Scene) -> Scene:
    """Half of the sounds end early."""
    rng = np.random.default_rng([scene.seed, 1])
    end = rng.uniform(EARLIEST_END, DURATION) if rng.uniform() < SHORTENED else DURATION
    return replace(scene, events=[replace(scene.events[0], end=end)])


def presence(scenes: list[Scene]) -> Tensor:
    """(K,) 1.0 for the kinds of all events."""
    kinds = {event.kind for scene in scenes for event in scene.events}
    return torch.tensor([float(kind in kinds) for kind in KINDS])


def mix(waves: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Sounds (40960,) of peak 1 -> pieces of them, each somewhere and at its own level, with some hiss: (40960,)."""
    mixed = np.zeros(SAMPLES, np.float32)
    for wave in waves:
        part = piece(wave, rng)
        start = rng.integers(0, SAMPLES - len(part) + 1)
        mixed[start : start + len(part)] += 10 ** (rng.uniform(*BALANCE) / 20) * part
    mixed *= 10 ** (rng.uniform(*GAIN) / 20) / max(1.0, np.abs(mixed).max())
    hiss = max(NOISE_FLOOR, HISS * rng.uniform() ** 3)
    return (mixed + hiss * rng.standard_normal(SAMPLES, np.float32)).clip(-1, 1)


def piece(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of a sound that still holds enough of it; sometimes, and where none is found, all of it."""
    energy = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    for _ in range(TRIES if rng.uniform() < CUT else 0):
        size = int(rng.uniform(*PIECE) * SAMPLE_RATE)
        first = int(rng.integers(0, len(wave) - size + 1))
        if energy[first + size] - energy[first] >= HEARD * energy[-1]:
            return wave[first : first + size]
    return wave
