"""mini/beats: train a small BEATs to recognise the kinds of sound in mixtures.

Training mixes single sounds anew in every epoch: pieces are cut, moved and added. Validation uses scenes of the world.
"""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from sonolume.config.base import MiniworldConfig
from sonolume.config.mini.beats import Config
from sonolume.models.mini.judges import presence
from sonolume.models.mini.scene_data import SceneDataset, split_scenes
from sonolume.models.training import Frozen, RecipeTask, TrainingData
from sonolume.modules.beats.beats import BEATs
from sonolume.preprocessors.miniworld import DURATION, SAMPLE_RATE, SAMPLES, WORLD, world
from sonolume.preprocessors.miniworld.scene import KINDS, Scene
from sonolume.preprocessors.miniworld.sounds import NOISE_FLOOR
from sonolume.utils import files

MIXED = (0.4, 0.45, 0.15)  # shares of mixtures of one, two and three sounds
SHORTENED = 0.5  # share of sounds that end early, as in scenes of two
EARLIEST_END = 1.1  # seconds
CUT = 0.6  # share of sounds of which a piece is taken
PIECE = (0.5, 2.4)  # seconds of a piece
MIN_ENERGY = 0.3  # share of a sound's energy that a piece must contain
TRIES = 8  # pieces drawn before a sound stays whole
BALANCE = (-9.0, 0.0)  # dB, peak of each sound in a mixture
GAIN = (-18.0, 0.0)  # dB, peak of the mixture
MAX_HISS = 0.01  # standard deviation of white noise


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of waves (B, 40960) and presence (B, K)."""
    return TrainingData(MixedSounds(config.miniworld), SceneDataset(config.miniworld, "valid", _item))


def _item(scene: Scene, epoch: int) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(world.render(scene)), presence([scene])


class MixedSounds(Dataset[tuple[Tensor, Tensor]]):
    """Mixtures of up to three single sounds; each sound is rendered once and kept in memory (80 kB)."""

    def __init__(self, config: MiniworldConfig) -> None:
        self.scenes = [_shorten(scene) for scene in split_scenes(config, "train", pairs=False)]
        self.rendered: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = np.random.default_rng([self.scenes[index].seed, epoch])
        chosen = [index, *rng.integers(0, len(self), size=rng.choice(len(MIXED), p=MIXED)).tolist()]
        wave = mix([self._wave(number) for number in chosen], rng)
        return torch.from_numpy(wave), presence([self.scenes[number] for number in chosen])

    def _wave(self, index: int) -> np.ndarray:
        """(40960,) peak 1."""
        if index not in self.rendered:
            wave = world.render(self.scenes[index])
            self.rendered[index] = (wave * (32767 / np.abs(wave).max())).astype(np.int16)
        return self.rendered[index].astype(np.float32) / 32767


def _shorten(scene: Scene) -> Scene:
    """Let a random half of the sounds end early."""
    rng = np.random.default_rng([scene.seed, 1])
    end = rng.uniform(EARLIEST_END, DURATION) if rng.uniform() < SHORTENED else DURATION
    return replace(scene, events=[replace(scene.events[0], end=end)])


def mix(waves: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Place a piece of each sound (40960,) of peak 1 at a random time and level, and add hiss: (40960,)."""
    mixed = np.zeros(SAMPLES, np.float32)
    for wave in waves:
        piece = cut(wave, rng)
        start = rng.integers(0, SAMPLES - len(piece) + 1)
        mixed[start : start + len(piece)] += 10 ** (rng.uniform(*BALANCE) / 20) * piece
    mixed *= 10 ** (rng.uniform(*GAIN) / 20) / max(1.0, np.abs(mixed).max())
    hiss = max(NOISE_FLOOR, MAX_HISS * rng.uniform() ** 3)
    return (mixed + hiss * rng.standard_normal(SAMPLES, np.float32)).clip(-1, 1)


def cut(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a random piece with enough energy out of a sound; some sounds, and those without such a piece, stay whole."""
    energy = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    for _ in range(TRIES if rng.uniform() < CUT else 0):
        size = int(rng.uniform(*PIECE) * SAMPLE_RATE)
        first = int(rng.integers(0, len(wave) - size + 1))
        if energy[first + size] - energy[first] >= MIN_ENERGY * energy[-1]:
            return wave[first : first + size]
    return wave


class Task(RecipeTask):
    """Multi-label classification of waves (B, n) into presence (B, K)."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        self.beats = BEATs(**asdict(config.model.beats), predictor_class=len(KINDS), labels=list(KINDS))

    def forward(self, waves: Tensor) -> Tensor:
        """(B, n) -> logits (B, K)."""
        return self.beats.logits(self.beats(waves)).float()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        logits, target = self(batch[0]), batch[1]
        right = ((logits > 0) == (target > 0)).all(1).float().mean()
        values = {"val/loss": F.binary_cross_entropy_with_logits(logits, target), "val/all_kinds_right": right}
        self.log_dict(values, prog_bar=True, batch_size=len(target), sync_dist=True)

    def export(self, folder: Path) -> None:
        """Write the folder that `BEATs.from_pretrained` reads, with a note of the training data."""
        self.beats.save_pretrained(folder)
        files.write_json(folder / "source.json", {"recipe": self.config.recipe, "world": WORLD})
