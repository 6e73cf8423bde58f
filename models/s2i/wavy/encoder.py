"""The trained speech encoder and its heads into Stable Diffusion, from and to exported folders.

B recordings, n samples, N hidden states of HuBERT, T frames, d width of HuBERT, J width of a speech vector, K tokens or
states of a recording, D width of the text encoder, L states of a prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonolume.config.audio_to_image import PLACEHOLDER
from sonolume.config.s2i.wavy import Head, Stage
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.a2i.sequence_prompt import states_prompt
from sonolume.models.a2i.sound_encoder import LongSounds, SoundEncoder
from sonolume.models.s2i.wavy.hubert import Hubert, load_hubert
from sonolume.models.s2i.wavy.image_encoder import ImageEncoder, load_image_encoder
from sonolume.modules.audiotoken import inject, tokenise
from sonolume.modules.speech_clip import SequenceHead, SpeechEncoder, TokenHead
from sonolume.utils import files
from sonolume.utils.audio import batches_by_length
from sonolume.utils.checkpoint import load_network
from sonolume.utils.errors import UserError

RECIPE = "s2i/wavy"
SHIPPED = "pretrained/mini/wavy"  # the miniature exported folder, used where the run has none
# folders of an exported model, the last two are also settings
SPEECH_ENCODER, HEAD, HUBERT, IMAGE_ENCODER = "speech_encoder", "head", "hubert", "image_encoder"
IMAGE_NORM = "image_norm"  # setting: mean length of the vectors of the image encoder, for the head image
WINDOW = 30.0  # seconds of the longest recording
MIN_SECONDS = 0.1
BATCH_SIZE = 8  # recordings of one forward pass
ENCODER_ONLY = "is a speech encoder without a head and cannot draw: train a head, or use --embed or --search"


class SpeechVectors:
    """HuBERT with the trained network on top of it: unit vectors of recordings.

    Raises:
        ValueError: the network was trained on a HuBERT of another depth or width.
    """

    def __init__(self, hubert: Hubert, speech_encoder: SpeechEncoder) -> None:
        self.hubert, self.speech_encoder = hubert, speech_encoder
        self.sample_rate = hubert.sample_rate
        self.width: int = speech_encoder.config["output_size"]
        self.min_seconds = max(MIN_SECONDS, hubert.min_samples / hubert.sample_rate)
        needed = speech_encoder.config["num_states"], speech_encoder.config["width"]
        if (hubert.num_states, hubert.width) != needed:
            raise ValueError(f"this HuBERT has {hubert.num_states - 1} layers of width {hubert.width}, the speech "
                             f"encoder was trained on {needed[0] - 1} of width {needed[1]}")  # fmt: skip

        self.network = nn.ModuleList([hubert.model, speech_encoder])

    def to(self, device: torch.device) -> None:
        """Move both networks."""
        self.network.to(device)

    @torch.no_grad()
    def frames(self, waves: Sequence[Tensor], length: int | None = None) -> tuple[Tensor, Tensor]:
        """Weighted sums of the hidden states of waves (n,) -> (B, T, d) float32, and how many are speech (B,).

        Args:
            length: samples to which all are padded (default: those of the longest).
        """
        states, lengths = self.hubert.layers(waves, length)                                       # (B, N, T, d)
        return self.speech_encoder.frames(states.to(self.speech_encoder.dtype)).float(), lengths  # (B, T, d)

    @torch.no_grad()
    def encode(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) of any lengths at `sample_rate` -> unit vectors (B, J) float32."""
        found: dict[int, Tensor] = {}
        lengths = [len(wave) for wave in waves]
        for numbers in batches_by_length(lengths, BATCH_SIZE, ragged=self.hubert.uses_mask):
            vectors = self.speech_encoder.encode_frames(*self.frames([waves[number] for number in numbers]))
            found |= dict(zip(numbers, vectors.float(), strict=True))
        return torch.stack([found[number] for number in range(len(waves))])                       # (B, J)


class WavyEncoder:
    """Tokens or states of recordings by a trained head, as a `SoundEncoder` (models/a2i/sound_encoder.py).

    Speech is read whole: recordings longer than 30 s are refused.
    """

    window, long_sounds = WINDOW, LongSounds.refuse

    def __init__(self, vectors: SpeechVectors, head: TokenHead | SequenceHead, prompt: str) -> None:
        self.vectors, self.prompt = vectors, prompt
        self.sample_rate, self.min_seconds = vectors.sample_rate, vectors.min_seconds
        self.network = head  # the attribute `head` of a `SoundEncoder` is an attention in the U-Net
        self.is_sequence = isinstance(head, SequenceHead)
        self.num_tokens: int = head.config["num_states" if self.is_sequence else "num_tokens"]
        self.width: int = head.config["output_size"]
        speech = vectors.speech_encoder.config
        given, needed = head.config["input_size"], speech["width" if self.is_sequence else "output_size"]
        if given != needed:
            raise ValueError(f"the head was trained on vectors of width {given}, this speech encoder makes {needed}")

    def to(self, device: torch.device) -> None:
        """Move all networks."""
        networks: Any = self.vectors, self.network
        for network in networks:
            network.to(device)

    def use_preset(self, name: str) -> None:
        """Change nothing: the published inference encodes sounds in the same way."""

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) at 16 kHz -> tokens or states (B, K, D) float32."""
        if isinstance(self.network, SequenceHead):
            return self.network(*self.vectors.frames(waves)).float()
        return self.network(self.vectors.encode(waves)).float()

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode a prompt for each recording with its tokens or states (B, m K, D) -> `prompt_embeds` (B, L, D)."""
        if self.is_sequence:
            return states_prompt(audio_tokens, prompts, self.num_tokens, tokenizer, text_encoder)
        ids = tokenise(tokenizer, prompts, self.num_tokens).to(audio_tokens.device)
        return inject(text_encoder, ids, audio_tokens, self.num_tokens).last_hidden_state


def load(folder: Path, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> SoundEncoder:
    """Load the encoder of an exported folder with the content of its `SETTINGS_FILE`.

    Args:
        dtype: of HuBERT; the other networks are small and stay float32.

    Raises:
        UserError: a part is missing, damaged, or does not fit the others; or the folder holds no head.
    """
    if settings.get("stage") != Stage.head:
        raise UserError(f"{folder}: {ENCODER_ONLY}")
    vectors: Any = load_vectors(folder, settings, device, dtype)
    name = settings.get("head")
    prompt = settings.get("prompt", PLACEHOLDER)
    if name == Head.image:
        from sonolume.models.s2i.wavy import image_head

        return image_head.load(folder, settings, vectors, prompt)
    if name not in (Head.token, Head.sequence):
        raise UserError(f"{folder / SETTINGS_FILE}: head is {name!r}, expected {', '.join(Head)}")
    kind = TokenHead if name == Head.token else SequenceHead
    head: Any = load_network(kind, str((folder / HEAD).absolute()), "the head")
    try:
        return WavyEncoder(vectors, head.to(device), prompt)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error


def load_vectors(folder: Path, settings: dict[str, Any], device: torch.device, dtype: torch.dtype) -> SpeechVectors:
    """Load HuBERT and the speech encoder of an exported folder of either stage; arguments and errors as `load`."""
    speech_encoder: Any = load_network(SpeechEncoder, str((folder / SPEECH_ENCODER).absolute()), "the speech encoder")
    hubert = load_hubert(source_of(folder, settings, HUBERT), f"{folder / SETTINGS_FILE}: {HUBERT}", dtype)
    try:
        vectors = SpeechVectors(hubert, speech_encoder)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    vectors.to(device)
    return vectors


def load_images(
    folder: Path, settings: dict[str, Any], vectors: SpeechVectors, device: torch.device, dtype: torch.dtype
) -> ImageEncoder:
    """Load the image encoder of an exported folder of stage 1; it must have the width of the speech encoder.

    Its vectors become those of the common space by `vectors.speech_encoder.project_images`.
    """
    key = f"{folder / SETTINGS_FILE}: {IMAGE_ENCODER}"
    images = load_image_encoder(source_of(folder, settings, IMAGE_ENCODER), key, dtype)
    check_images(images, vectors.speech_encoder, key)
    images.to(device)
    return images


def check_images(images: ImageEncoder, speech_encoder: SpeechEncoder, key: str) -> None:
    """Raise a UserError unless the vectors of an image encoder fit the speech encoder."""
    needed = speech_encoder.config["image_size"] or speech_encoder.config["output_size"]
    if images.width != needed:
        raise UserError(f"{key}: its image vectors have width {images.width}, the speech encoder needs {needed}")


def source_of(folder: Path, settings: dict[str, Any], part: str) -> str:
    """Folder or hub id of a part: inside the exported folder if it was trained, else elsewhere."""
    if part not in settings:
        raise UserError(f"{folder / SETTINGS_FILE}: {part} missing: export the run again")
    inside = folder / str(settings[part])
    return str(inside.absolute()) if inside.is_dir() else str(settings[part])


def save(
    folder: Path, speech_encoder: SpeechEncoder, settings: dict[str, Any], head: Any = None,
    hubert: Hubert | None = None, images: ImageEncoder | None = None,
) -> None:  # fmt: skip
    """Write an exported folder.

    Args:
        settings: stage, hubert, image_encoder, and for a head its name, stable_diffusion, prompt and guidance_scale.
        head: trained network of stage 2, if there is one.
        hubert, images: those that were trained, too; the settings then name them inside the folder.
    """
    speech_encoder.register_to_config(_name_or_path="")  # no local path in an exported folder
    speech_encoder.save_pretrained(folder / SPEECH_ENCODER)
    if head is not None:
        head.save_pretrained(folder / HEAD)
    if hubert is not None:
        hubert.model.save_pretrained(folder / HUBERT)
        hubert.extractor.save_pretrained(folder / HUBERT)
        settings = settings | {HUBERT: HUBERT}
    if images is not None:
        images.model.save_pretrained(folder / IMAGE_ENCODER)
        images.processor.save_pretrained(folder / IMAGE_ENCODER)
        settings = settings | {IMAGE_ENCODER: IMAGE_ENCODER}
    files.write_json(folder / SETTINGS_FILE, {"recipe": RECIPE} | settings)
