"""Head image of s2i/wavy (experimental): a stock IP-Adapter draws a speech vector as if it were an image vector.

Nothing is trained for it. It needs a speech encoder that was trained against the image encoder of the IP-Adapter: then
a recording lies close to its pictures. They do not coincide, and no IP-Adapter has seen a speech vector, so that other
heads may draw better pictures.

B recordings, n samples, J width of a vector, m sounds of a prompt, K states of a sound, D width of the text encoder, L
states of a prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.models.a2i.attention_prompt import attention_prompt
from sonolume.models.a2i.pipeline import SETTINGS_FILE
from sonolume.models.a2i.sound_encoder import LongSounds
from sonolume.models.s2i.wavy.encoder import HEAD, IMAGE_NORM, WINDOW, SpeechVectors
from sonolume.models.s2i.wavy.image_encoder import ImageEncoder
from sonolume.modules.ip_adapter import IPAdapter
from sonolume.utils.checkpoint import load_network
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image

BATCH_SIZE = 16  # pictures


class ImageHeadEncoder:
    """Speech vectors as image vectors for an IP-Adapter, as a `SoundEncoder` (models/a2i/sound_encoder.py).

    Args:
        norm: length of the vectors that the IP-Adapter receives, see `mean_norm`.
        window: seconds of the longest recording; longer ones are refused.

    Raises:
        ValueError: the IP-Adapter reads vectors of another width.
    """

    long_sounds = LongSounds.refuse

    def __init__(
        self, vectors: SpeechVectors, head: IPAdapter, norm: float, prompt: str, window: float = WINDOW
    ) -> None:
        self.vectors, self.head, self.norm, self.prompt, self.window = vectors, head, norm, prompt, window
        self.sample_rate, self.min_seconds = vectors.sample_rate, vectors.min_seconds
        self.width: int = head.config["width"]
        self.num_tokens: int = head.config["num_states"]
        check_width(head.config["input_size"], vectors.width)

    def to(self, device: torch.device) -> None:
        """Move all networks."""
        networks: Any = self.vectors, self.head
        for network in networks:
            network.to(device)

    def use_preset(self, name: str) -> None:
        """Change nothing: there is no published inference."""

    @torch.no_grad()
    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) at 16 kHz -> states (B, K, D) float32."""
        return self.head(self.norm * self.vectors.encode(waves).to(self.head.device)).float()

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode the words of each prompt, followed by the states of its sounds -> (B, L + m K, D)."""
        return attention_prompt(audio_tokens, prompts, self.num_tokens, tokenizer, text_encoder)

    @torch.no_grad()
    def negative_tokens(self, audio_tokens: Tensor) -> Tensor:
        """Tokens of a vector of zeros, which guidance leads away from, at the strengths of `audio_tokens` (B, m K, D).

        An IP-Adapter was trained to see them where there is no picture.
        """
        strengths = audio_tokens.unflatten(1, (-1, self.num_tokens))[:, :, -1:]                   # (B, m, 1, D)
        empty = self.head(torch.zeros(1, self.vectors.width, device=self.head.device))            # (1, K, D)
        return (strengths * empty.to(audio_tokens)).flatten(1, 2)                                 # (B, m K, D)


def check_width(needed: int, given: int) -> None:
    """Raise a ValueError unless an IP-Adapter reads vectors of the width that the speech encoder makes."""
    if given != needed:
        raise ValueError(f"the IP-Adapter reads vectors of width {needed}, this speech encoder makes {given}: it must "
                         "have been trained against the image encoder of the IP-Adapter")  # fmt: skip


@torch.no_grad()
def mean_norm(images: ImageEncoder, pictures: Sequence[Path]) -> float:
    """Mean length of the vectors that an image encoder makes of pictures."""
    norms = []
    for start in range(0, len(pictures), BATCH_SIZE):
        batch = [open_image(path) for path in pictures[start : start + BATCH_SIZE]]
        norms += images.encode_images(batch).norm(dim=-1).tolist()
    return sum(norms) / len(norms)


def load(folder: Path, settings: dict[str, Any], vectors: SpeechVectors, prompt: str) -> ImageHeadEncoder:
    """Load the encoder of an exported folder; arguments as `encoder.load`, which loads the speech encoder.

    Raises:
        UserError: the head is missing, damaged, or does not fit the speech encoder.
    """
    norm = settings.get(IMAGE_NORM)
    if not isinstance(norm, int | float):
        raise UserError(f"{folder / SETTINGS_FILE}: {IMAGE_NORM} missing: make the folder again with bins/convert.py "
                        "speech-ip-adapter")  # fmt: skip
    head: Any = load_network(IPAdapter, str((folder / HEAD).absolute()), "the head")
    try:
        return ImageHeadEncoder(vectors, head.to(vectors.speech_encoder.device), float(norm), prompt)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
