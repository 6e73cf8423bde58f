"""Neural codecs: the encoder's output before quantisation, averaged over time."""

import numpy as np
import torch
from transformers import DacModel, EncodecModel

from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.models.evaluation.embedders.pretrained import Source, load_model

KINDS = {"encodec": ("ID_OR_FOLDER", r".+"), "dac": ("ID_OR_FOLDER", r".+")}
MAX_SECONDS = 30.0  # of one window, to bound memory


class EncodecEmbedder(Embedder):
    """EnCodec (Defossez et al. 2022): 24 kHz whole, 48 kHz in its own chunks, as stereo of unit power."""

    takes = ("sounds",)
    ragged = False  # padding would reach the last frames

    def __init__(self, source: Source, device: torch.device | str) -> None:
        self.model, self.name = load_model(EncodecModel, source, device)
        config = self.model.config
        self.device, self.dim, self.sample_rate = device, config.hidden_size, config.sampling_rate
        self.window = config.chunk_length_s or MAX_SECONDS

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        wave = pad(waves).to(self.device)[:, None].repeat(1, self.model.config.audio_channels, 1)  # (B, C, n)
        if self.model.config.normalize:
            wave = wave / (wave.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8)
        return Features(self.model.encoder(wave).mean(-1), None)


class DacEmbedder(Embedder):
    """Descript Audio Codec (Kumar et al. 2023); the last hop is padded with silence, as its processor does."""

    takes = ("sounds",)
    window = MAX_SECONDS
    ragged = False

    def __init__(self, source: Source, device: torch.device | str) -> None:
        self.model, self.name = load_model(DacModel, source, device)
        config = self.model.config
        self.device, self.dim, self.sample_rate = device, config.hidden_size, config.sampling_rate

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        wave = pad(waves, self.model.config.hop_length).to(self.device)[:, None]  # (B, 1, n)
        return Features(self.model.encoder(wave).mean(-1), None)


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    return (EncodecEmbedder if kind == "encodec" else DacEmbedder)(Source.parse(kind, source), device)
