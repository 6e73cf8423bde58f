"""Captions and short prompts of the miniature world with what they say: made as training goes, nothing is stored."""

import argparse
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import CLIPTokenizer

from sonolume.config.base import MiniworldConfig
from sonolume.config.mini.clip_text import Config
from sonolume.models.mini.clip_text import prompts, tokenizer
from sonolume.models.mini.text_encoder.data import Captions, activity, slots
from sonolume.models.training import TrainingData
from sonolume.preprocessors.miniworld.captions import caption
from sonolume.preprocessors.miniworld.scene import Scene, scenes

PROMPTS = 0.25  # share of single events that are named by a prompt


def text_of(scene: Scene, rng: np.random.Generator, held_out: bool = False) -> str:
    """A caption, or now and then a prompt."""
    if not scene.relation and rng.uniform() < PROMPTS:
        return prompts.prompt(scene.events[0].kind, rng)
    return caption(scene, rng, held_out)


class TextDataset(Dataset[tuple[str, Scene]]):
    """Texts of fixed scenes, worded anew in every epoch; the validation split in held-out wordings."""

    def __init__(self, split: str, count: int, world: MiniworldConfig) -> None:
        self.scenes = list(scenes(split, count, world.seed, list(world.kinds), world.pairs))
        self.held_out = split != "train"

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[str, Scene]:
        epoch, index = item
        scene = self.scenes[index]
        return text_of(scene, np.random.default_rng([scene.seed, epoch, 3]), self.held_out), scene


def collate(items: list[tuple[str, Scene]], tokens: CLIPTokenizer) -> Captions:
    """Padded to the full length, as Stable Diffusion does: the states at the padding are read, too."""
    found = tokens([text for text, _ in items], padding="max_length", truncation=True, return_tensors="pt").input_ids
    classes = [slots(scene) for _, scene in items]
    return Captions(
        found,
        torch.ones_like(found),
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
        TextDataset("train", world.train_scenes, world),
        TextDataset("valid", world.valid_scenes, world),
        partial(collate, tokens=tokenizer.build(config.model.max_tokens)),
    )
