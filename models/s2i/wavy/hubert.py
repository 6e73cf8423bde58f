"""HuBERT: the hidden states of all its layers, for recordings of any length.

B recordings, n samples, N hidden states (the input of the first layer, and the output of each), T frames of 20 ms, d
width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import HubertModel, Wav2Vec2FeatureExtractor

from sonolume.models import pretrained
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError

MODEL_TYPE = "hubert"
CLASSES = ("HubertModel", "HubertForCTC", "HubertForSequenceClassification")  # heads are ignored
REMEDY = "a folder or a hub id of HuBERT, such as facebook/hubert-large-ls960-ft"


class Hubert:
    """transformers' HubertModel with its feature extractor.

    Models with layer norms in their convolutions, such as the large ones, are given a mask of the padding. Those that
    normalise over time, such as the base model, were trained without one: padding is silence to them.
    """

    def __init__(self, model: HubertModel, extractor: Wav2Vec2FeatureExtractor) -> None:
        config = model.config
        self.model, self.extractor = model, extractor
        self.sample_rate: int = extractor.sampling_rate
        self.num_states: int = config.num_hidden_layers + 1
        self.width: int = config.hidden_size
        self.uses_mask = config.feat_extract_norm == "layer"
        self.convolutions = list(zip(config.conv_kernel, config.conv_stride, strict=True))

    @property
    def min_samples(self) -> int:
        """Samples of the shortest recording that has a frame."""
        samples = 1
        for kernel, stride in reversed(self.convolutions):
            samples = (samples - 1) * stride + kernel
        return samples

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.model.to(device)  # type: ignore[arg-type]

    def frames_of(self, samples: int) -> int:
        """Frames of a recording, by transformers' exact count; at least 1, to which shorter ones are padded."""
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return max(1, samples)

    def layers(self, waves: Sequence[Tensor], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states of waves (n,) -> (B, N, T, d) float32, and the number of frames (B,) that are speech.

        Args:
            length: samples to which all are padded (default: those of the longest). With a mask, padding does not
                change the frames of speech, and the states behind the longest recording are zeros.
        """
        longest = max(self.min_samples, *map(len, waves))
        inputs = self.extractor(
            [wave.cpu().numpy() for wave in waves], sampling_rate=self.sample_rate, return_attention_mask=True,
            padding="max_length", max_length=longest if self.uses_mask else length or longest, return_tensors="pt",
        ).to(self.model.device)  # fmt: skip
        values, mask = inputs.input_values.to(self.model.dtype), inputs.attention_mask           # (B, n) each
        output = self.model(values, attention_mask=mask if self.uses_mask else None, output_hidden_states=True)
        states = torch.stack(output.hidden_states, dim=1).float()                                 # (B, N, T, d)
        lengths = torch.tensor([self.frames_of(len(wave)) for wave in waves], device=mask.device)
        missing = self.frames_of(length) - states.shape[2] if length else 0
        return functional.pad(states, (0, 0, 0, missing)), lengths                                # (B, N, T, d)


def load_hubert(source: str, key: str, dtype: torch.dtype = torch.float32) -> Hubert:
    """Load a frozen HuBERT on the CPU; its CTC head is dropped, if it has one.

    Args:
        source: folder or hub id; `key` is its flag or config key, for messages.

    Raises:
        UserError: missing, damaged, or another kind of model.
    """
    where, name = paths.locate(source, key, REMEDY), f"{key} {source}"
    if paths.is_local(where):
        checkpoint.check_folder(Path(where), *CLASSES)
    else:
        checkpoint.check_download(where, name, *CLASSES)
    pretrained.model_settings(where, name, (MODEL_TYPE,))
    model: Any = pretrained.load_model(HubertModel, where, name, dtype=dtype)
    # never masked: transformers masks spans in training mode only, where `apply_spec_augment` says so
    model.config.apply_spec_augment = False
    model.config.layerdrop = 0.0  # in training mode; a layer that is skipped has no hidden state
    extractor = pretrained.load_processor(Wav2Vec2FeatureExtractor, where, name)
    if extractor.feature_size != 1:
        raise UserError(f"{name}: its feature extractor makes {extractor.feature_size} features, HuBERT takes waves")
    return Hubert(model, extractor)
