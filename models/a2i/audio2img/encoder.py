"""audio2img's encoder: from a sound to a sequence of states that takes the place of Stable Diffusion's text states.

B sounds, n samples, T features of 20 ms, F = 160 values each, K states of a sound, D width of the text encoder, L
states of a prompt.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertModel

from sonolume.config.a2i.audio2img import Head
from sonolume.config.audio_to_image import PLACEHOLDER, STABLE_DIFFUSION
from sonolume.models import pretrained
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.a2i.sequence_prompt import states_prompt
from sonolume.models.a2i.sound_encoder import LongSounds, SoundEncoder
from sonolume.utils import checkpoint, files, paths
from sonolume.utils.errors import UserError

RECIPE = "a2i/audio2img"
SHIPPED = "pretrained/mini/audio2img"  # the miniature exported folder, used where the run has none
SAMPLE_RATE = 16000  # Hz
FRAME, HOP = 400, 160  # samples of a mel frame, and from one to the next
STRIDE = 2  # mel frames of one feature
WINDOW = 3.775  # seconds of the published checkpoints: 375 mel frames, rounded up to whole features
MIN_SECONDS = 0.2
MODEL_TYPE = "wav2vec2-bert"
CLASSES = ("Wav2Vec2BertModel", "Wav2Vec2BertForCTC", "Wav2Vec2BertForSequenceClassification")  # heads are ignored


class Audio2ImgEncoder:
    """Wav2Vec2-BERT with its adapter, as a `SoundEncoder` (models/a2i/sound_encoder.py).

    Args:
        model: with an adapter.
        window: seconds that a sound is padded or cut to.
        attention_mask: ignore the padding of short sounds, as in training; the published inference does not.

    Raises:
        ValueError: the model has no adapter, or takes other features.
    """

    sample_rate, min_seconds = SAMPLE_RATE, MIN_SECONDS

    def __init__(
        self, model: Wav2Vec2BertModel, prompt: str = PLACEHOLDER, window: float = WINDOW, attention_mask: bool = True
    ) -> None:
        config = model.config
        if not config.add_adapter:
            raise ValueError("this Wav2Vec2-BERT has no adapter: it was not trained by audio2img")
        if config.feature_projection_input_dim % STRIDE:
            raise ValueError(f"this Wav2Vec2-BERT takes features of {config.feature_projection_input_dim} values, "
                             f"expected a multiple of {STRIDE}")  # fmt: skip
        self.model, self.prompt, self.window, self.attention_mask = model, prompt, window, attention_mask
        self.extract = FeatureExtractor(config.feature_projection_input_dim // STRIDE, window)
        self.width: int = config.output_hidden_size
        self.long_sounds = LongSounds.loudest
        self.num_tokens = states_of(self.extract.length, config)

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.model.to(device)  # type: ignore[arg-type]

    def use_preset(self, name: str) -> None:
        """Under "reference", encode as published: the beginning of a long sound, and padding without a mask."""
        is_published = name == "reference"
        self.attention_mask = not is_published
        self.long_sounds = LongSounds.beginning if is_published else LongSounds.loudest

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) at 16 kHz -> states (B, K, D) float32; waves shorter than `window` are padded."""
        features, mask = (one.to(self.model.device) for one in self.extract(waves))               # (B, T, F), (B, T)
        output = self.model(features.to(self.model.dtype), attention_mask=mask if self.attention_mask else None)
        return output.last_hidden_state.float()                                                   # (B, K, D)

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Put the states of each sound into the place of `<*>`, see `states_prompt` -> (B, L, D)."""
        return states_prompt(audio_tokens, prompts, self.num_tokens, tokenizer, text_encoder)


class FeatureExtractor:
    """Normalised log-mels of transformers' SeamlessM4TFeatureExtractor, padded or cut to one length.

    Args:
        bands: mel bands.
        window: seconds of sound, rounded to whole features.
    """

    def __init__(self, bands: int = 80, window: float = WINDOW) -> None:
        frames = (round(window * SAMPLE_RATE) - FRAME) / HOP + 1
        self.length = max(1, math.ceil(frames / STRIDE))  # T
        self.extractor = SeamlessM4TFeatureExtractor(
            feature_size=bands, num_mel_bins=bands, sampling_rate=SAMPLE_RATE, stride=STRIDE,
            padding_value=1.0,  # as published with w2v-bert-2.0
        )  # fmt: skip

    def __call__(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Extract features of waves (n,) -> (B, T, F) float32, and their mask (B, T) with 0 for padding."""
        found = self.extractor(
            [wave.cpu().numpy() for wave in waves], sampling_rate=SAMPLE_RATE, truncation=True, padding="max_length",
            max_length=self.length * STRIDE, return_tensors="pt",
        )  # fmt: skip
        return found["input_features"], found["attention_mask"]


def states_of(features: int, config: Any) -> int:
    """Number of states of a sequence of features after the adapter of a Wav2Vec2BertConfig."""
    kernel, stride = config.adapter_kernel_size, config.adapter_stride
    for _ in range(config.num_adapter_layers):
        features = max(0, (features + 2 * (stride // 2) - kernel) // stride + 1)
    return features


def save(folder: Path, model: Wav2Vec2BertModel, extractor: FeatureExtractor, settings: dict[str, Any]) -> None:
    """Write an exported folder: transformers' own, and the settings stable_diffusion, prompt, window and more."""
    model.save_pretrained(folder)
    extractor.extractor.save_pretrained(folder)
    files.write_json(folder / SETTINGS_FILE, {"recipe": RECIPE} | settings)


def published_settings(folder: Path) -> dict[str, Any] | None:
    """Settings of a folder without them, as the published checkpoints are: plain folders of transformers.

    Raises:
        UserError: no Stable Diffusion has the width of its states.
    """
    path = folder / "config.json"
    config = files.read_json(path, "the config of a model") if path.is_file() else {}
    if config.get("model_type") != MODEL_TYPE:
        return None
    width = config.get("output_hidden_size") or config.get("hidden_size")
    if width not in STABLE_DIFFUSION:
        fits = " or ".join(f"{size} ({name})" for size, name in STABLE_DIFFUSION.items())
        raise UserError(f"{folder}: its states have width {width}, expected {fits}")
    return {"recipe": RECIPE, "stable_diffusion": STABLE_DIFFUSION[width], "prompt": PLACEHOLDER}


def load(folder: Path, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> SoundEncoder:
    """Load the encoder of an exported folder of either head with the content of its `SETTINGS_FILE`.

    Raises:
        UserError: it is missing, damaged, or was not trained as an encoder of pictures.
    """
    if settings.get("head") == Head.attention:
        from sonolume.models.a2i.audio2img import attention_encoder

        return attention_encoder.load(folder, settings, device, dtype)
    model: Any = load_model(str(folder.absolute()), f"{folder}", dtype)
    try:
        window = float(settings.get("window", WINDOW))
        return Audio2ImgEncoder(model.to(device), settings.get("prompt", PLACEHOLDER), window)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error


def load_model(where: str, name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Wav2Vec2BertModel:
    """Load a Wav2Vec2-BERT in evaluation mode on the CPU.

    Args:
        where: folder or hub id, as `paths.locate` returns it; `name` begins messages.
        options: arguments of `pretrained.load_model`.
    """
    check_model(where, name)
    return pretrained.load_model(Wav2Vec2BertModel, where, name, dtype=dtype, **options)


def check_model(where: str, name: str) -> None:
    """Raise a UserError unless a folder holds a complete Wav2Vec2-BERT; of a hub id, only the settings are read."""
    if paths.is_local(where):
        checkpoint.check_folder(Path(where), *CLASSES)
    else:
        checkpoint.check_download(where, name, *CLASSES)
    pretrained.model_settings(where, name, (MODEL_TYPE,))
