"""Inputs of the golden files, made from names so that they need not be stored."""

import zlib

import numpy as np
import torch
from torch import Tensor


def input_for(name: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """float32 standard-normal values times `scale`, from a generator seeded by `name`."""
    generator = np.random.default_rng(zlib.crc32(f"input:{name}".encode()))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32) * scale)


def mel_signal(length: int, sample_rate: int = 16000) -> Tensor:
    """(length,) float32: a 440 Hz tone, a chirp from 100 Hz that reaches 7 kHz after 10 s, and noise."""
    seconds = np.arange(length) / sample_rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * seconds)
    chirp = 0.2 * np.sin(2 * np.pi * (100 + 345 * seconds) * seconds)
    noise = 0.05 * input_for("mel.noise", (length,)).numpy().astype(np.float64)
    return torch.from_numpy((tone + chirp + noise).astype(np.float32))
