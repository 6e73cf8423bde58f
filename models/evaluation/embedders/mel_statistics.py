"""No weights at all: mean and standard deviation of each log-mel band over time. For tests and first curves only."""

import numpy as np
import torch

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.modules.mel import MelSettings, MelSpectrogram


class MelStatistics(Embedder):
    """2 x 80 numbers: what a sound is like on the whole, not what happens in it."""

    takes = ("sounds",)
    ragged = False

    def __init__(self, device: torch.device | str = "cpu") -> None:
        settings = MelSettings()
        self.mel, self.device = MelSpectrogram(settings).to(device), device
        self.name, self.dim, self.sample_rate = "mel:", 2 * settings.n_mel, settings.sample_rate

    def _hear(self, waves: list[np.ndarray]) -> Features:
        mel = self.mel(pad(waves).to(self.device))                          # (B, M, T)
        rows = torch.cat([mel.mean(-1), mel.std(-1, correction=0)], dim=-1)  # (B, 2 M)
        return Features(rows, None)
