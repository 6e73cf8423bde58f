"""Training data of the miniature CLIP: the still picture and some video frames of each scene, with their captions.

They are rendered once and cached. B pictures, L tokens, G pictures of one scene.
"""

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPTokenizer

from sonolume.config.mini.clip import Config, FilmConfig
from sonolume.models.mini.clip_text import build_tokenizer, make_text
from sonolume.models.mini.scene_data import split_scenes
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors import parallel
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.drawings import Appearance
from sonolume.preprocessors.miniworld.frame_captions import TEXTS, frame_caption, status
from sonolume.preprocessors.miniworld.pictures import SIZE, appearances, even_windows, paint, picture
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import files, paths
from sonolume.utils.cache import cached

CACHE_VERSION = 1  # bump to invalidate cached pictures and captions
SCENES_PER_WORKER = 200  # for which a process is worth its start
SHAPE = (-1, SIZE, SIZE, 3)

Item = tuple[np.ndarray, list[str]]  # pictures (G, 64, 64, 3) uint8, and a caption of each
Rendered = tuple[bytes, list[list[str]]]  # compressed pictures of one scene, and the wordings of each


class PictureCaptions(NamedTuple):
    """A batch of pictures with one caption each."""

    pixels: Tensor  # (B, 3, 64, 64) in 0..1
    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L) 1 for text
    matches: Tensor  # (B, B) bool: picture i and caption j belong together; equal captions match each other's pictures


def preprocess(config: Config, options: object) -> None:
    """Fill the caches."""
    training_data(config, Frozen())


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `PictureCaptions`; an item is a scene, whose pictures are negatives of each other."""
    train, valid = (FilmPictures(config, split) for split in ("train", "valid"))
    return TrainingData(train, valid, partial(collate, tokenizer=build_tokenizer(config.model.max_tokens, TEXTS)))


class FilmPictures(Dataset[Item]):
    """The still picture and some of the cached frames of each scene, drawn and worded anew in every epoch."""

    def __init__(self, config: Config, split: str) -> None:
        mini, self.film = config.miniworld, config.film
        scenes = split_scenes(mini, split, mini.pairs)
        render = partial(render_scene, self.film, mini.captions_per_scene, split != "train")
        key = [CACHE_VERSION, WORLD, render.args[1:], self.film.frames, self.film.cached_frames, TEXTS]
        key += [scene.to_dict() for scene in scenes]

        def make(folder: Path) -> None:
            _save(parallel.run(render, scenes, config.train.num_workers, f"films, {split}", SCENES_PER_WORKER), folder)

        place = cached(paths.resolve(config.cache_dir), key, make, f"films_{split}")
        self.blob, self.ends = np.load(place / "pictures.npy", mmap_mode="r"), np.load(place / "ends.npy").tolist()
        self.captions: list[list[list[str]]] = files.read_json(place / "captions.json")["captions"]

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = np.random.default_rng([epoch, index, 5])
        blob = self.blob[self.ends[index] : self.ends[index + 1]].tobytes()
        pictures, captions = np.frombuffer(zlib.decompress(blob), np.uint8).reshape(SHAPE), self.captions[index]
        chosen = [0, *(1 + rng.permutation(len(pictures) - 1)[: self.film.frames_per_scene])]  # the first is the still
        return pictures[chosen], [captions[one][rng.integers(len(captions[one]))] for one in chosen]


def _save(rendered: Sequence[Rendered], folder: Path) -> None:
    np.save(folder / "pictures.npy", np.frombuffer(b"".join(blob for blob, _ in rendered), np.uint8))
    np.save(folder / "ends.npy", np.cumsum([0, *(len(blob) for blob, _ in rendered)]))
    files.write_json(folder / "captions.json", {"captions": [captions for _, captions in rendered]})


def render_scene(film: FilmConfig, wordings: int, held_out: bool, scene: Scene) -> Rendered:
    """Render and word the still picture and `cached_frames` frames of a scene, always the same ones."""
    rng, states = np.random.default_rng([scene.seed, 5]), appearances(scene, *even_windows(film.frames))
    chosen = [states[index] for index in choose_frames(scene, states, film.cached_frames, rng)]
    pictures = np.stack([picture(scene), *(paint(scene, frame) for frame in chosen)])
    captions = [[make_text(scene, number, held_out) for number in range(wordings)]]
    captions += [[frame_caption(scene, frame, rng, held_out) for _ in range(wordings)] for frame in chosen]
    return zlib.compress(pictures.tobytes(), 1), captions


def choose_frames(
    scene: Scene, states: list[tuple[Appearance, ...]], count: int, rng: np.random.Generator
) -> list[int]:
    """Draw `count` frames of a film; different states are equally likely, however long they last."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, frame in enumerate(states):
        pairs = zip(scene.events, frame, strict=True)
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
