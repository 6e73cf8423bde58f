"""Training data of the miniature Stable Diffusion: pictures and texts encoded by its frozen components, and cached."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from sonolume.config.mini.stable_diffusion import Config, PreprocessOptions
from sonolume.models.mini.clip_text import make_text
from sonolume.models.mini.scene_data import draw, split_scenes
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import checkpoint, paths
from sonolume.utils.cache import cached
from sonolume.utils.errors import UserError

CACHE_VERSION = 1  # bump to invalidate cached latents and text states
BATCH_SIZE = 32  # pictures or texts of one forward pass

Item = tuple[Tensor, Tensor]  # moments (2z, h, w): mean and log-variance of the latent; text states (L, D)


def load_frozen(config: Config) -> Frozen:
    """Load the networks that are not trained: `vae`, and `text_encoder`, a `TextEncoder`.

    Raises:
        UserError: one is absent or another model; names the config key.
    """
    folder = _trained(config.model.vae, "model.vae", "AutoencoderKL", "picture_vae")
    vae = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # strip local paths from exported configs
    return Frozen(vae=vae, text_encoder=TextEncoder(config.model.text_encoder))


class TextEncoder:
    """CLIP text encoder with its tokenizer, used as in StableDiffusionPipeline: full length and no mask."""

    def __init__(self, source: str) -> None:
        folder = _trained(source, "model.text_encoder", "CLIPTextModel", "clip_text")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.model = CLIPTextModel.from_pretrained(folder).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Encode B texts into (B, L, D)."""
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return self.model(tokens.input_ids.to(self.model.device)).last_hidden_state


def _trained(source: str, key: str, kind: str, config: str) -> Path:
    folder = paths.resolve(source)
    if not folder.is_dir():
        raise UserError(f"{key} {source}: no such folder: train it first with egs/mini/{config}.json")
    checkpoint.check_folder(folder, kind)
    return folder


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Fill the caches, once the autoencoder and the text encoder are trained."""
    training_data(config, load_frozen(config))


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of moments (B, 2z, h, w) and text states (B, L, D); fills the caches first if necessary."""
    train, valid = (LatentPictures(config, split, frozen) for split in ("train", "valid"))
    return TrainingData(train, valid, default_collate)


class LatentPictures(Dataset[Item]):
    """Latents with one of their texts, drawn anew in every epoch; some texts are emptied in training.

    moments: (N, 2z, h, w); states: (different texts, L, D).
    """

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        mini, training = config.miniworld, split == "train"
        self.seed, self.cond_mask_prob = config.train.random_seed, config.model.cond_mask_prob if training else 0.0
        scenes = split_scenes(mini, split, mini.pairs)
        self.texts = [texts_of(scene, mini.captions_per_scene, held_out=not training) for scene in scenes]
        different = list(dict.fromkeys(["", *(text for texts in self.texts for text in texts)]))
        self.numbers = {text: number for number, text in enumerate(different)}
        vae, text_encoder, half = frozen["vae"], frozen["text_encoder"], config.train.precision.startswith("bf16")
        key = [half, [scene.to_dict() for scene in scenes], list(vae.parameters())]
        self.moments = _cached(config, f"latents_{split}", key, lambda: encode_pictures(scenes, vae, half))
        key = [different, list(text_encoder.model.parameters())]
        self.states = _cached(config, f"texts_{split}", key, lambda: encode_texts(different, text_encoder))

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        random = np.random.default_rng([self.seed, epoch, index])
        empty, texts = random.uniform() < self.cond_mask_prob, self.texts[index]
        text = "" if empty else texts[random.integers(len(texts))]
        moments, states = self.moments[index], self.states[self.numbers[text]]
        return torch.from_numpy(moments.astype(np.float32)), torch.from_numpy(states.astype(np.float32))


def texts_of(scene: Scene, count: int, held_out: bool) -> list[str]:
    """Captions and prompts of a scene, always the same ones."""
    return [make_text(scene, number, held_out) for number in range(count)]


def _cached(config: Config, name: str, key: list[Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the disk cache, computed by `make` if it is not there."""
    folder = paths.resolve(config.cache_dir)
    place = cached(folder, [CACHE_VERSION, *key], lambda unfinished: np.save(unfinished / "array.npy", make()), name)
    return np.load(place / "array.npy", mmap_mode="r")


@torch.no_grad()
def encode_pictures(scenes: list[Scene], vae: AutoencoderKL, half: bool) -> np.ndarray:
    """Latent moments (N, 2z, h, w) float16 of the pictures of scenes; `half` computes them in bfloat16."""
    moments = []
    for start in tqdm(range(0, len(scenes), BATCH_SIZE), desc="latents", unit="batch"):
        pictures = torch.stack([draw(scene) for scene in scenes[start : start + BATCH_SIZE]])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            posterior = vae.encode(2 * pictures - 1).latent_dist
        moments.append(torch.cat([posterior.mean, posterior.logvar], dim=1).half().numpy())
    return np.concatenate(moments)


def encode_texts(texts: list[str], text_encoder: TextEncoder) -> np.ndarray:
    """Text states (N, L, D) float16."""
    starts = tqdm(range(0, len(texts), BATCH_SIZE), desc="texts", unit="batch")
    return np.concatenate([text_encoder(texts[start : start + BATCH_SIZE]).half().numpy() for start in starts])
