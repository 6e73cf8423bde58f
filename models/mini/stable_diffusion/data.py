"""Data of the miniature Stable Diffusion: latents of pictures and states of their texts, computed once, kept on disk.

Cached under {cache_dir}/, latents under a hash of the autoencoder and the scenes, states under one of the text encoder
and the texts.
"""

import argparse
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from sonolume.config.mini.stable_diffusion import Config
from sonolume.models.frozen_features import fingerprint, once
from sonolume.models.mini.clip_text.data import text_of
from sonolume.models.mini.picture_judge.data import draw
from sonolume.models.mini.stable_diffusion import components
from sonolume.models.training import TrainingData
from sonolume.preprocessors.miniworld import world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import paths

FORM = 1  # of the cache's files
BATCH = 32  # pictures or texts of one forward pass

Item = tuple[Tensor, Tensor]  # moments (2z, h, w): mean and log-variance of the latent; text states (L, D)


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Latents and text states, if the autoencoder and the text encoder are there."""
    training_data(config)


def training_data(config: Config) -> TrainingData:
    """Batches: moments (B, 2z, h, w) and text states (B, L, D); fills the cache first where it is not filled."""
    vae, text = components.load_vae(config.model.vae), components.TextEncoder(config.model.text_encoder)
    train, valid = (LatentPictures(config, split, vae, text) for split in ("train", "valid"))
    return TrainingData(train, valid, default_collate)


class LatentPictures(Dataset[Item]):
    """The items of one split; texts alternate, some are emptied in training."""

    def __init__(self, config: Config, split: str, vae: AutoencoderKL, text: components.TextEncoder) -> None:
        mini = config.miniworld
        count = {"train": mini.train_scenes, "valid": mini.valid_scenes}[split]
        scenes = list(world.scenes(split, count, mini.seed, list(mini.kinds), mini.pairs))
        self.texts = [texts_of(scene, mini.captions_per_scene, split != "train") for scene in scenes]
        different = list(dict.fromkeys(["", *(text for of_scene in self.texts for text in of_scene)]))
        self.numbers = {text: number for number, text in enumerate(different)}
        half = config.train.precision.startswith("bf16")
        drawn = repr((FORM, half, [scene.to_dict() for scene in scenes])).encode()
        said = repr((FORM, different)).encode()
        self.moments = _kept(  # (N, 2z, h, w)
            config, f"latents_{split}", fingerprint(vae.parameters()) + drawn, lambda: _moments(scenes, vae, half)
        )
        self.states = _kept(  # (different texts, L, D)
            config, f"texts_{split}", fingerprint(text.model.parameters()) + said, lambda: _states(different, text)
        )
        self.seed = config.train.random_seed
        self.drop = config.model.cond_mask_prob if split == "train" else 0.0

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        random = np.random.default_rng([self.seed, epoch, index])
        empty, texts = random.uniform() < self.drop, self.texts[index]
        text = "" if empty else texts[random.integers(len(texts))]
        found = self.moments[index], self.states[self.numbers[text]]
        return torch.from_numpy(found[0].astype(np.float32)), torch.from_numpy(found[1].astype(np.float32))


def texts_of(scene: Scene, count: int, held_out: bool) -> list[str]:
    """The captions and prompts of a scene, the same ones whenever it is drawn."""
    return [text_of(scene, np.random.default_rng([scene.seed, number, 3]), held_out) for number in range(count)]


def _kept(config: Config, name: str, made_from: bytes, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` gives, from {cache_dir}/{name}_{hash of made_from}/ if it is there."""
    folder = paths.resolve(config.cache_dir) / f"{name}_{hashlib.sha256(made_from).hexdigest()[:16]}"
    once(folder, f"caching {name}", lambda unfinished: np.save(unfinished / "array.npy", make()))
    return np.load(folder / "array.npy", mmap_mode="r")


@torch.no_grad()
def _moments(scenes: list[Scene], vae: AutoencoderKL, half: bool) -> np.ndarray:
    """(N, 2z, h, w) float16."""
    found = []
    for start in tqdm(range(0, len(scenes), BATCH), desc="latents", unit="batch"):
        pictures = torch.stack([draw(scene) for scene in scenes[start : start + BATCH]])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            posterior = vae.encode(2 * pictures - 1).latent_dist
        found.append(torch.cat([posterior.mean, posterior.logvar], dim=1).half().numpy())
    return np.concatenate(found)


def _states(texts: list[str], text: components.TextEncoder) -> np.ndarray:
    """(texts, L, D) float16."""
    starts = tqdm(range(0, len(texts), BATCH), desc="texts", unit="batch")
    return np.concatenate([text(texts[start : start + BATCH]).half().numpy() for start in starts])
