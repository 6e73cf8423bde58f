"""Embedders that are models of transformers, by hub id or folder, with a name that changes when their weights do."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import snapshot_download
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from sonolume.models import pretrained
from sonolume.models.evaluation.embedders.base import Embedder, Features, pad
from sonolume.utils import paths
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError

KINDS = {
    "ast": ("ID_OR_FOLDER", r".+"), "clap": ("ID_OR_FOLDER", r".+"),
    "clip": ("ID_OR_FOLDER", r".+"), "siglip": ("ID_OR_FOLDER", r".+"),
    "encodec": ("ID_OR_FOLDER", r".+"), "dac": ("ID_OR_FOLDER", r".+"),
    "wav2vec2": ("ID_OR_FOLDER[#LAYER]", r"[^#]+(#\d+)?"), "hubert": ("ID_OR_FOLDER[#LAYER]", r"[^#]+(#\d+)?"),
    "wavlm": ("ID_OR_FOLDER[#LAYER]", r"[^#]+(#\d+)?"),
}  # fmt: skip
HASHED_SUFFIXES = {".json", ".safetensors", ".bin", ".txt", ".model"}  # files of a folder that determine the model
CODEC_SECONDS = 30.0  # of one window, to bound memory


def find_model(kind: str, source: str) -> tuple[str, str | None]:
    """Return the folder, or the hub id and the revision, of a model written `ID`, `ID@REVISION` or `FOLDER`.

    Raises a UserError for a folder that does not exist.
    """
    folder = paths.expand(source)
    if folder.is_dir():
        return str(folder.resolve()), None
    name, _, revision = source.partition("@")
    return paths.locate(name, f"embedder {kind}:", "give a folder or an id of the hub"), revision or None


class PretrainedEmbedder(Embedder):
    """A frozen model in float32 and evaluation mode.

    Raises:
        UserError: the model or its processor is missing, damaged, of another type, or lacks weights.
    """

    def __init__(self, model_class: Any, kind: str, source: str, device: torch.device | str) -> None:
        (where, revision), self.device = find_model(kind, source), device
        self.where, self.label, self.revision = where, f"embedder {kind}:{where}", revision
        pretrained.model_settings(where, self.label, (model_class.config_class.model_type,), revision)
        self.model = pretrained.load_model(model_class, where, self.label, revision).to(device)
        self.config = self.model.config
        if paths.is_local(where):
            files = (path for path in Path(where).iterdir() if path.suffix in HASHED_SUFFIXES and path.is_file())
            self.name = f"{kind}:{Path(where).name}@{content_hash(*sorted(files))}"
        else:
            commit = Path(snapshot_download(where, revision=revision, local_files_only=True)).name
            self.name = f"{kind}:{where}@{commit}"

    def load_processor(self, loader: Any, **settings: Any) -> Any:
        """Load the tokenizer or feature extractor of the model."""
        return pretrained.load_processor(loader, self.where, self.label, self.revision, **settings)


class AstEmbedder(PretrainedEmbedder):
    """Audio Spectrogram Transformer (Gong et al. 2021): one model for FD, KL and IS on AudioSet's classes.

    The pooled state before the classifier, and the logits; short clips are padded with silence.
    """

    takes = ("sounds",)

    def __init__(self, kind: str, source: str, device: torch.device | str) -> None:
        super().__init__(transformers.ASTForAudioClassification, kind, source, device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "At least one mel filter has all zero")  # the published filter bank
            self.extractor = self.load_processor(transformers.ASTFeatureExtractor)
        self.dim, self.sample_rate = self.config.hidden_size, self.extractor.sampling_rate
        self.window = self.extractor.max_length * 0.01  # frames of 10 ms
        self.labels = tuple(self.config.id2label[index] for index in range(self.config.num_labels))

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        inputs = self.extractor(waves, sampling_rate=self.sample_rate, return_tensors="pt")
        mel = inputs.input_values.float().to(self.device)                                 # (B, frames, bands)
        state = self.model.audio_spectrogram_transformer(input_values=mel).pooler_output  # (B, d)
        return Features(state, self.model.classifier(state))


class ClapEmbedder(PretrainedEmbedder):
    """CLAP (Wu et al. 2023): sounds and captions in one space; embeddings of length 1, as CLAP's own.

    The extractor's default truncation `fusion` returns four channels, which an unfused model cannot take, and marks a
    random clip of each batch as long; `rand_trunc` crops long clips at random. Windows are cut beforehand, so that
    neither has anything to choose.
    """

    takes = ("sounds", "texts")
    unit = True

    def __init__(self, kind: str, source: str, device: torch.device | str) -> None:
        super().__init__(transformers.ClapModel, kind, source, device)
        self.extractor = self.load_processor(transformers.ClapFeatureExtractor)
        self.tokenizer = self.load_processor(transformers.AutoTokenizer)
        self.dim, self.sample_rate = self.config.projection_dim, self.extractor.sampling_rate
        self.window = self.extractor.nb_max_samples / self.sample_rate
        self.truncation = "fusion" if self.config.audio_config.enable_fusion else "rand_trunc"
        text = self.config.text_config
        self.max_length = text.max_position_embeddings - text.pad_token_id - 1  # RoBERTa's first position

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        inputs = self.extractor(waves, sampling_rate=self.sample_rate, truncation=self.truncation, return_tensors="pt")
        mel = inputs.input_features.float().to(self.device)                        # (B, 1 or 4, frames, bands)
        longer = torch.zeros(len(waves), 1, dtype=torch.bool, device=self.device)  # none is longer than a window
        state = _pooled(self.model.audio_model(input_features=mel, is_longer=longer))
        return Features(self.model.audio_projection(state), None)                  # get_audio_features normalises it

    def text_features(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        return F.normalize(_pooled(self.model.get_text_features(input_ids=ids, attention_mask=mask)), dim=-1)


class ClipEmbedder(PretrainedEmbedder):
    """CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): pictures and captions in one space.

    Projected features, not normalised; cosines do that.
    """

    takes = ("pictures", "texts")

    def __init__(self, kind: str, source: str, device: torch.device | str) -> None:
        is_clip = kind == "clip"
        super().__init__(transformers.CLIPModel if is_clip else transformers.SiglipModel, kind, source, device)
        # the PIL backend, because torchvision is no dependency
        self.processor = self.load_processor(transformers.AutoImageProcessor, backend="pil")
        self.tokenizer = self.load_processor(transformers.AutoTokenizer)
        text = self.config.text_config
        self.dim = self.config.projection_dim if is_clip else text.projection_size
        self.max_length = text.max_position_embeddings
        # SigLIP was trained on texts padded to the maximum length, without a mask
        self.padding: bool | str = True if is_clip else "max_length"

    def image_features(self, pictures: list[Image]) -> Features:
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values  # (B, 3, H, W)
        return Features(_pooled(self.model.get_image_features(pixel_values=pixels.to(self.device))), None)

    def text_features(self, texts: list[str]) -> Tensor:
        size = {"padding": self.padding, "truncation": True, "max_length": self.max_length}
        tokens = self.tokenizer(texts, **size, return_tensors="pt").to(self.device)
        mask = {"attention_mask": tokens.attention_mask} if self.padding is True else {}
        return _pooled(self.model.get_text_features(input_ids=tokens.input_ids, **mask))


class CodecEmbedder(PretrainedEmbedder):
    """Output of a neural codec's encoder before quantisation, averaged over time.

    EnCodec (Defossez et al. 2022): 24 kHz whole, 48 kHz in its own chunks, as stereo of unit power. Descript Audio
    Codec (Kumar et al. 2023): the last hop is padded with silence, as its processor does.
    """

    takes = ("sounds",)
    ragged = False  # padding would reach the last frames

    def __init__(self, kind: str, source: str, device: torch.device | str) -> None:
        self.is_dac = kind == "dac"
        super().__init__(transformers.DacModel if self.is_dac else transformers.EncodecModel, kind, source, device)
        self.dim, self.sample_rate = self.config.hidden_size, self.config.sampling_rate
        self.window = (None if self.is_dac else self.config.chunk_length_s) or CODEC_SECONDS

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        wave = pad(waves, self.config.hop_length if self.is_dac else 1).to(self.device)[:, None]  # (B, 1, n)
        if not self.is_dac:
            wave = wave.repeat(1, self.config.audio_channels, 1)                                  # (B, C, n)
            if self.config.normalize:
                wave = wave / (wave.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8)
        return Features(self.model.encoder(wave).mean(-1), None)


class SpeechEmbedder(PretrainedEmbedder):
    """Self-supervised speech models: the states of one layer, averaged over the frames of the sound, not of padding.

    Written `SOURCE#LAYER`: 0 is the input of the first layer, 1 its output ...; by default the last one. Models whose
    first layer normalises over time (`feat_extract_norm: group`) were trained without a mask, and padding would change
    every frame: their batches hold equal lengths, as WavLM's do, whose mask torch warns about. All others are padded
    and masked.
    """

    takes = ("sounds",)
    window = 30.0  # bounds the memory of attention

    def __init__(self, kind: str, source: str, device: torch.device | str) -> None:
        classes = {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel", "wavlm": "WavLMModel"}
        where, _, layer = source.partition("#")
        super().__init__(getattr(transformers, classes[kind]), kind, where, device)
        self.extractor = self.load_processor(transformers.Wav2Vec2FeatureExtractor)
        self.layer = int(layer) if layer else None
        if layer and int(layer) > self.config.num_hidden_layers:
            raise UserError(f"{self.label}: has layers 0 to {self.config.num_hidden_layers}, not {layer}")
        if getattr(self.config, "add_adapter", False):
            raise UserError(f"{self.label}: has an adapter that shortens time, which is not supported")
        self.name = self.name.replace("@", f"#{self.layer}@") if layer else self.name
        self.dim, self.sample_rate = self.config.hidden_size, self.extractor.sampling_rate
        self.ragged = self.config.feat_extract_norm == "layer" and kind != "wavlm"

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        settings = {"sampling_rate": self.sample_rate, "padding": True, "return_attention_mask": True}
        inputs = self.extractor(waves, **settings, return_tensors="pt")
        mask = inputs.attention_mask.to(self.device) if self.ragged else None
        output = self.model(inputs.input_values.to(self.device), attention_mask=mask, output_hidden_states=True)
        states = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]  # (B, T, d)
        frames = torch.tensor([len(wave) for wave in waves], device=states.device)                     # (B,) samples
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            frames = (frames - kernel) // stride + 1
        valid = torch.arange(states.shape[1], device=states.device) < frames[:, None]                  # (B, T)
        return Features((states * valid[..., None]).sum(1) / frames[:, None], None)


def _pooled(output: Any) -> Tensor:
    """Return the pooled features (B, d): transformers 5 returns an output object where 4 returned the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


EMBEDDERS = {"ast": AstEmbedder, "clap": ClapEmbedder, "clip": ClipEmbedder, "siglip": ClipEmbedder,
             "encodec": CodecEmbedder, "dac": CodecEmbedder, "wav2vec2": SpeechEmbedder, "hubert": SpeechEmbedder,
             "wavlm": SpeechEmbedder}  # fmt: skip


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    return EMBEDDERS[kind](kind, source, device)
