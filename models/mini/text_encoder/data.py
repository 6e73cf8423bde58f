"""Captions of the miniature world with what they say: made as training goes, nothing is stored."""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import ByT5Tokenizer

from sonolume.config.base import MiniworldConfig
from sonolume.config.mini.text_encoder import Config
from sonolume.models.training import TrainingData
from sonolume.preprocessors.miniworld import DURATION
from sonolume.preprocessors.miniworld.captions import caption
from sonolume.preprocessors.miniworld.scene import KINDS, Scene, band, scenes

STEPS = 20  # time steps of the activity map
WORDS = {"": 0, "low": 1, "high": 2}
DIRECTIONS = {"": 0, "up": 1, "down": 2}
RELATIONS = {"": 0, "then": 1, "over": 2}


@dataclass
class Captions:
    tokens: Tensor  # (B, L) bytes
    mask: Tensor  # (B, L)
    activity: Tensor  # (B, K, T) 1 where a kind sounds
    slots: dict[str, Tensor]  # head -> (B, 2) classes, -1 where there is no event

    def to(self, device: torch.device) -> "Captions":
        """On another device; Lightning calls this."""
        slots = {name: value.to(device) for name, value in self.slots.items()}
        return Captions(self.tokens.to(device), self.mask.to(device), self.activity.to(device), slots)


def activity(scene: Scene) -> np.ndarray:
    """(K, T) 1.0 where a kind of sound is on."""
    grid = np.zeros((len(KINDS), STEPS), np.float32)
    for event in scene.events:
        first, last = int(event.start / DURATION * STEPS), int(np.ceil(event.end / DURATION * STEPS))
        grid[KINDS.index(event.kind), first:last] = 1
    return grid


def slots(scene: Scene) -> dict[str, list[int]]:
    """Classes of the first and the second event: in order of time for "then", of kind for "over"."""
    events = (
        sorted(scene.events, key=lambda event: KINDS.index(event.kind)) if scene.relation == "over" else scene.events
    )
    values = {
        "kind": [KINDS.index(event.kind) for event in events],
        "count": [event.count for event in events],
        "pitch": [WORDS[band(event.pitch)] for event in events],
        "loudness": [WORDS[band(event.loudness)] for event in events],
        "direction": [DIRECTIONS[event.direction] for event in events],
        "relation": [RELATIONS[scene.relation]] * len(events),
    }
    absent = {"kind": len(KINDS)}
    return {name: (value + [absent.get(name, -1)])[:2] for name, value in values.items()}


class CaptionDataset(Dataset[tuple[str, Scene]]):
    """Captions of fixed scenes, worded anew in every epoch; the validation split in held-out wordings."""

    def __init__(self, split: str, count: int, world: MiniworldConfig) -> None:
        self.scenes = list(scenes(split, count, world.seed, list(world.kinds), world.pairs))
        self.held_out = split != "train"

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[str, Scene]:
        epoch, index = item
        scene = self.scenes[index]
        return caption(scene, np.random.default_rng([scene.seed, epoch]), self.held_out), scene


def collate(items: list[tuple[str, Scene]]) -> Captions:
    tokens = ByT5Tokenizer()([text for text, _ in items], padding=True, return_tensors="pt")
    classes = [slots(scene) for _, scene in items]
    return Captions(
        tokens.input_ids,
        tokens.attention_mask,
        torch.from_numpy(np.stack([activity(scene) for _, scene in items])),
        {name: torch.tensor([each[name] for each in classes]) for name in classes[0]},
    )


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Nothing to prepare."""
    print(f"{config.recipe}: captions are made as training goes, nothing to prepare")


def training_data(config: Config) -> TrainingData:
    """Batches of `Captions`."""
    world = config.miniworld
    return TrainingData(
        CaptionDataset("train", world.train_scenes, world),
        CaptionDataset("valid", world.valid_scenes, world),
        collate,
    )
