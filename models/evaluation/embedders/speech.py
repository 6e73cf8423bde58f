"""Self-supervised speech models: wav2vec 2.0, HuBERT, WavLM. The states of one layer, averaged over time."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model, WavLMModel

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.pretrained import Source, load_model, load_processor
from sonolume.utils.errors import UserError

KINDS = {
    "wav2vec2": ("ID_OR_FOLDER[#LAYER]", r"[^#]+(#\d+)?"),
    "hubert": ("ID_OR_FOLDER[#LAYER]", r"[^#]+(#\d+)?"),
    "wavlm": ("ID_OR_FOLDER[#LAYER]", r"[^#]+(#\d+)?"),
}
CLASSES: dict[str, Any] = {"wav2vec2": Wav2Vec2Model, "hubert": HubertModel, "wavlm": WavLMModel}


class SpeechEmbedder(Embedder):
    """Mean over the frames of the sound itself, never over padding.

    Models whose first layer normalises over time (`feat_extract_norm: group`) were trained without a mask, and padding
    would change every frame: their batches hold equal lengths, as WavLM's do, whose mask torch warns about. All others
    are padded and masked.

    Args:
        source: its kind is a key of `CLASSES`.
        layer: 0 is the input of the first layer, 1 its output ...; None is the last one.
    """

    takes = ("sounds",)
    window = 30.0  # bounds the memory of attention

    def __init__(self, source: Source, device: torch.device | str, layer: int | None = None) -> None:
        self.model, self.name = load_model(CLASSES[source.kind], source, device)
        self.extractor = load_processor(Wav2Vec2FeatureExtractor, source)
        config = self.model.config
        if layer is not None and not 0 <= layer <= config.num_hidden_layers:
            raise UserError(f"embedder {source}: has layers 0 to {config.num_hidden_layers}, not {layer}")
        if getattr(config, "add_adapter", False):
            raise UserError(f"embedder {source}: has an adapter that shortens time, which is not supported")
        self.device, self.layer, self.dim = device, layer, config.hidden_size
        if layer is not None:
            self.name = self.name.replace("@", f"#{layer}@")
        self.sample_rate = self.extractor.sampling_rate
        self.ragged = config.feat_extract_norm == "layer" and source.kind != "wavlm"

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        inputs = self.extractor(
            waves, sampling_rate=self.sample_rate, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        mask = inputs.attention_mask.to(self.device) if self.ragged else None
        output = self.model(inputs.input_values.to(self.device), attention_mask=mask, output_hidden_states=True)
        states = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]  # (B, T, d)
        frames = self._frames(torch.tensor([len(wave) for wave in waves], device=states.device))       # (B,)
        valid = torch.arange(states.shape[1], device=states.device) < frames[:, None]                  # (B, T)
        return Features((states * valid[..., None]).sum(1) / frames[:, None], None)

    def _frames(self, samples: Tensor) -> Tensor:
        """Number of frames after the convolutions."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    where, _, layer = source.partition("#")
    return SpeechEmbedder(Source.parse(kind, where), device, int(layer) if layer else None)
