"""Data of the mel autoencoder: log-mels, nothing else."""

import argparse

import torch

from sonolume.config.tta.autoencoderkl import Config
from sonolume.models.training import TrainingData
from sonolume.models.tta.features import MelDataset
from sonolume.preprocessors import text_audio


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Recordings or scenes -> manifest and mel features."""
    text_audio.prepare(config.preprocess, args.dataset, args.input, captions=False, audio_dir=args.audio_dir)


def training_data(config: Config) -> TrainingData:
    """Batches (B, 1, bands, frames)."""
    train, valid = (MelDataset(config.preprocess, config.dataset, split) for split in ("train", "valid"))
    return TrainingData(train, valid, torch.stack)
