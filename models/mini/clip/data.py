"""Training data of the miniature CLIP: the still picture and some video frames of each scene, with their captions.

B pictures, L tokens.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sonolume.config.mini.clip import Config
from sonolume.models.mini.clip_text import build_tokenizer, make_text
from sonolume.models.mini.scene_data import SceneDataset
from sonolume.models.mini.scene_data import preprocess as preprocess
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors.miniworld.drawings import Appearance
from sonolume.preprocessors.miniworld.frame_captions import TEXTS, frame_caption, status
from sonolume.preprocessors.miniworld.pictures import appearances, paint, picture
from sonolume.preprocessors.miniworld.scene import Scene

Item = tuple[np.ndarray, list[str]]  # pictures of one scene (G, 64, 64, 3) uint8, and their captions


class PictureCaptions(NamedTuple):
    """A batch of pictures with one caption each."""

    pixels: Tensor  # (B, 3, 64, 64) in 0..1
    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L) 1 for text
    matches: Tensor  # (B, B) bool: picture i and caption j belong together; equal captions match each other's pictures


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `PictureCaptions`; items are scenes, whose other frames are negatives of each other."""
    film = config.film
    train, valid = (
        SceneDataset(config.miniworld, split, partial(_item, film.frames, film.frames_per_scene, split != "train"))
        for split in ("train", "valid")
    )
    return TrainingData(train, valid, partial(collate, tokenizer=build_tokenizer(config.model.max_tokens, TEXTS)))


def _item(frames: int, count: int, held_out: bool, scene: Scene, epoch: int) -> Item:
    rng = np.random.default_rng([scene.seed, epoch, 5])
    film = appearances(scene, frames)
    chosen = [film[index] for index in choose_frames(scene, film, count, rng)]
    pictures = [picture(scene), *(paint(scene, states) for states in chosen)]
    texts = [make_text(scene, epoch, held_out), *(frame_caption(scene, states, rng, held_out) for states in chosen)]
    return np.stack(pictures), texts


def choose_frames(
    scene: Scene, film: list[tuple[Appearance, ...]], count: int, rng: np.random.Generator
) -> list[int]:
    """Draw `count` frames of a film; different states are equally likely, however long they last."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, states in enumerate(film):
        pairs = zip(scene.events, states, strict=True)
        groups.setdefault(tuple((status(event, state), state.marks) for event, state in pairs), []).append(index)
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(groups)).tolist()
    members = list(groups.values())
    return [int(rng.choice(members[group])) for group in order[:count]]


def collate(items: list[Item], tokenizer: CLIPTokenizer) -> PictureCaptions:
    """Put the pictures and captions of several scenes into one batch."""
    pixels = torch.from_numpy(np.concatenate([pictures for pictures, _ in items])).permute(0, 3, 1, 2) / 255
    texts = [text.lower().rstrip(".") for _, captions in items for text in captions]
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    numbers = torch.tensor([texts.index(text) for text in texts])
    return PictureCaptions(pixels, tokens.input_ids, tokens.attention_mask, numbers[:, None] == numbers)
