"""CLAP (Wu et al. 2023): sounds and captions in one space."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.pretrained import Source, load_model, load_processor, pooled

KINDS = {"clap": ("ID_OR_FOLDER", r".+")}


class ClapEmbedder(Embedder):
    """Embeddings of length 1, as CLAP's own.

    The extractor's default truncation `fusion` returns four channels, which an unfused model cannot take, and marks a
    random clip of each batch as long; `rand_trunc` crops long clips at random. Windows are cut beforehand, so that
    neither has anything to choose.
    """

    takes = ("sounds", "texts")
    unit = True

    def __init__(self, source: Source, device: torch.device | str) -> None:
        self.model, self.name = load_model(ClapModel, source, device)
        self.extractor = load_processor(ClapFeatureExtractor, source)
        self.tokenizer = load_processor(AutoTokenizer, source)
        self.device, self.dim = device, self.model.config.projection_dim
        self.sample_rate = self.extractor.sampling_rate
        self.window = self.extractor.nb_max_samples / self.sample_rate
        self.truncation = "fusion" if self.model.config.audio_config.enable_fusion else "rand_trunc"
        text = self.model.config.text_config
        self.max_length = text.max_position_embeddings - text.pad_token_id - 1  # RoBERTa's first position

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        inputs = self.extractor(
            waves, sampling_rate=self.sample_rate, truncation=self.truncation, return_tensors="pt"
        )
        mel = inputs.input_features.float().to(self.device)                        # (B, 1 or 4, frames, bands)
        longer = torch.zeros(len(waves), 1, dtype=torch.bool, device=self.device)  # none is longer than a window
        state = pooled(self.model.audio_model(input_features=mel, is_longer=longer))
        return Features(self.model.audio_projection(state), None)                  # get_audio_features normalises it

    def text_features(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        return F.normalize(pooled(self.model.get_text_features(input_ids=ids, attention_mask=mask)), dim=-1)


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    return ClapEmbedder(Source.parse(kind, source), device)
