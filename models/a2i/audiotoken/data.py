"""Data of AudioToken: BEATs' features of windows of sound, VAE moments of pictures, and embeddings of labels.

Features and moments are cached under {processed_dir}/{dataset}/cache/. With `preprocess.cache_features` false, items
hold the waves instead of their features. B items, T tokens of BEATs, C channels of its features, n samples, D text
width, z latent channels, h x w latent size.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sonolume.config.a2i.audiotoken import Config, PreprocessOptions
from sonolume.models.a2i.audiotoken.encoder import beats_features
from sonolume.models.a2i.frozen import cached_features, cached_moments
from sonolume.models.a2i.pairs import PairDataset
from sonolume.models.training import Frozen, TrainingData
from sonolume.modules.audiotoken import label_vector
from sonolume.modules.beats.beats import SAMPLE_RATE
from sonolume.preprocessors import prepared, sound_pictures
from sonolume.utils.shards import Column


class Batch(NamedTuple):
    """A batch, or without B one item of the data set."""

    audio: Tensor  # (B, T, C) features of BEATs, or (B, n) waves
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    label: Tensor  # (B, D) mean embedding of the label's words; zeros without a label


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Prepare videos, pairs or generated scenes: write wavs, pictures and manifests."""
    assert options.dataset is not None
    sound_pictures.prepare(config.preprocess, options.dataset, options.input, options.audio_dir)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Both splits; computes the cached features first if they are missing."""
    return TrainingData.of(lambda split: AudioTokenDataset(config, split, frozen))


class AudioTokenDataset(PairDataset):
    """Windows of sound, the latents of their pictures, and the embeddings of their labels."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        super().__init__(config.preprocess, config.dataset, split, config.train.random_seed, SAMPLE_RATE)
        sd, beats = frozen["sd"], frozen["beats"]
        folder = prepared.cache_folder(config.preprocess, config.dataset)
        self.moments = cached_moments(folder, split, self.images, sd.vae, config.train)
        self.features: Column | None = None
        if config.preprocess.cache_features:
            name = f"features of {split}"
            features = partial(beats_features, beats)                                         # (b, n) -> (b, T, C)
            self.features = cached_features(folder, name, self.windows, beats, features, config.train)
        texts = [row.label or next(iter(row.captions), None) for row in self.rows]
        vectors = {text: label_vector(text, sd.tokenizer, sd.text_encoder).float() for text in set(texts)}
        self.labels = [vectors[text] for text in texts]

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        window, picture = self.draw_pair(*item)
        moments = torch.from_numpy(self.moments[picture].astype(np.float32))
        return Batch(self.audio(window), moments, self.labels[item[1]])

    def audio(self, window: int) -> Tensor:
        """Features (T, C) of a window, or its wave (n,) without a cache."""
        if self.features is None:
            return self.windows[window]
        return torch.from_numpy(self.features[window].astype(np.float32))
