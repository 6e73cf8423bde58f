"""Data of audio2img: mel features of windows of sound, and the states of their texts in the frozen text encoder.

Both are cached under {processed_dir}/{dataset}/cache/, the states once for each distinct text. With
`preprocess.cache_features` false, the features are computed in each step. B items, T features of F values, S texts, K
states of a text without its start state, D text width.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.a2i.audio2img import Config, Head, PreprocessOptions
from sonolume.config.base import TrainConfig
from sonolume.models.a2i.audio2img.attention import SoundPictures
from sonolume.models.a2i.audio2img.encoder import SAMPLE_RATE, FeatureExtractor
from sonolume.models.a2i.frozen import cached_features
from sonolume.models.a2i.sound_windows import Windows
from sonolume.models.a2i.text_states import Tokens, encode
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors import sound_pictures, sound_text
from sonolume.utils import paths
from sonolume.utils.shards import Column


class Batch(NamedTuple):
    """A batch, or without B one item of the data set."""

    features: Tensor  # (B, T, F) of FeatureExtractor
    mask: Tensor  # (B, T) 1 for sound, 0 for padding
    states: Tensor  # (B, K, D) of the texts
    text: Tensor  # (B,) numbers of the texts in `SoundTexts.states`


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Prepare sounds with texts such as FSD50K, or generated scenes, or for the head attention sounds with pictures."""
    assert options.dataset is not None
    prepare = sound_pictures.prepare if config.model.head is Head.attention else sound_text.prepare
    prepare(config.preprocess, options.dataset, options.input, options.audio_dir)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Both splits; computes the cached features first if they are missing."""
    if config.model.head is Head.attention:
        return TrainingData.of(lambda split: SoundPictures(config, split, frozen))
    return TrainingData.of(lambda split: SoundTexts(config, split, frozen))


class SoundTexts(Dataset[Batch]):
    """Windows of sound with the states of one of their texts, both drawn anew in every epoch.

    states: (S, K, D) float16, one for each distinct text, without the start state.
    """

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        self.config, self.seed = config.preprocess, config.train.random_seed
        self.extract: FeatureExtractor = frozen["extract"]
        self.rows = sound_text.read_split(config.preprocess, config.dataset, split)
        self.windows = Windows(self.rows, config.preprocess, SAMPLE_RATE, repeat=False)
        folder = paths.resolve(config.preprocess.processed_dir) / config.dataset[0] / "cache"
        self.features: Column | None = None
        if config.preprocess.cache_features:
            self.features = self._cached_features(folder, split, config.train)
        self.texts = list(dict.fromkeys(text for row in self.rows for text in row.captions))
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        tokens = Tokens(self.texts, frozen["tokenizer"], frozen["num_states"] + 1, config.model.text_mask)
        text_encoder = frozen["text_encoder"]
        states = partial(encode, text_encoder)
        self.states = cached_features(folder, f"text states of {split}", tokens, text_encoder, states, config.train)

    def _cached_features(self, folder: Path, split: str, train: TrainConfig) -> Column:
        """(windows, T, F + 1) float16; the last value is the mask."""

        def compute(waves: list[Tensor]) -> Tensor:
            features, mask = self.extract(waves)
            return torch.cat([features, mask[..., None]], dim=-1)                             # (b, T, F + 1)

        identity, name = [self.extract.length, self.extract.extractor.to_json_string()], f"mel features of {split}"
        return cached_features(folder, name, self.windows, None, compute, train, collate=list, identity=identity)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        epoch, index = item
        random = np.random.default_rng([self.seed, epoch, index])
        window = self.windows.draw(index, random)
        captions = self.rows[index].captions
        text = self.numbers[captions[random.integers(len(captions))]]
        return Batch(*self.audio(window), self.text_states([text])[0], torch.tensor(text))

    def audio(self, window: int) -> tuple[Tensor, Tensor]:
        """Features (T, F) and mask (T,) of a window."""
        if self.features is None:
            features, mask = self.extract([self.windows[window]])
            return features[0], mask[0]
        found = torch.from_numpy(self.features[window].astype(np.float32))                    # (T, F + 1)
        return found[:, :-1], found[:, -1].int()

    def text_states(self, numbers: Sequence[int]) -> Tensor:
        """States (n, K, D) of texts."""
        return torch.from_numpy(self.states[np.asarray(numbers, np.int64)].astype(np.float32))
