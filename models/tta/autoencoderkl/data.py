"""Training data of the mel autoencoder: log-mels."""

import torch

from sonolume.config.options import PreprocessOptions
from sonolume.config.tta.autoencoderkl import Config
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.features import MelDataset, prepare_mels


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Recordings or scenes -> manifest and mel features, of the autoencoder or the vocoder."""
    assert options.dataset is not None
    prepare_mels(config.preprocess, options, captions=False)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Datasets of both splits in batches (B, 1, bands, frames)."""
    return TrainingData.of(lambda split: MelDataset(config.preprocess, config.dataset, split), torch.stack)
