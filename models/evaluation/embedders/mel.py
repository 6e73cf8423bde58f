"""Statistics of log-mel spectrograms, without any weights. For tests and first curves only."""

import numpy as np
import torch

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.modules.mel import MelSettings, MelSpectrogram

KINDS = {"mel": ("", r"")}


class MelStatistics(Embedder):
    """Mean and standard deviation of each of the 80 bands over time: 160 numbers that ignore what happens when."""

    takes = ("sounds",)
    ragged = False

    def __init__(self, device: torch.device | str) -> None:
        settings = MelSettings()
        self.mel, self.device = MelSpectrogram(settings).to(device), device
        self.name, self.dim, self.sample_rate = "mel:", 2 * settings.n_mel, settings.sample_rate

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        mel = self.mel(pad(waves).to(self.device))                                  # (B, M, T)
        return Features(torch.cat([mel.mean(-1), mel.std(-1, correction=0)], -1), None)  # (B, 2 M)


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    return MelStatistics(device)
