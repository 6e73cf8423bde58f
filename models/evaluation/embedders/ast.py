"""Audio Spectrogram Transformer (Gong et al. 2021): one model for FD, KL and IS on AudioSet's classes."""

import warnings

import numpy as np
import torch
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.pretrained import Source, load_model, load_processor

KINDS = {"ast": ("ID_OR_FOLDER", r".+")}
FRAME = 0.01  # seconds per frame


class AstEmbedder(Embedder):
    """The pooled state before the classifier, and the logits; short clips are padded with silence."""

    takes = ("sounds",)

    def __init__(self, source: Source, device: torch.device | str) -> None:
        self.model, self.name = load_model(ASTForAudioClassification, source, device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "At least one mel filter has all zero")  # the published filter bank
            self.extractor = load_processor(ASTFeatureExtractor, source)
        self.device, self.dim = device, self.model.config.hidden_size
        self.sample_rate, self.window = self.extractor.sampling_rate, self.extractor.max_length * FRAME
        self.labels = tuple(self.model.config.id2label[index] for index in range(self.model.config.num_labels))

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        inputs = self.extractor(waves, sampling_rate=self.sample_rate, return_tensors="pt")
        mel = inputs.input_values.float().to(self.device)                                 # (B, frames, bands)
        state = self.model.audio_spectrogram_transformer(input_values=mel).pooler_output  # (B, d)
        return Features(state, self.model.classifier(state))


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    return AstEmbedder(Source.parse(kind, source), device)
