"""Interface of the sound encoders: the one part that differs between the audio-to-image recipes.

B sounds, K audio tokens of each, L text tokens, D width of Stable Diffusion's text encoder.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from sonolume.config.audio_to_image import PLACEHOLDER

SETTINGS_FILE = "audio_to_image.json"  # in an exported folder: recipe, stable_diffusion, and settings of the encoder
LORA = "lora"  # folder of the U-Net's adapters in an exported folder, if they were trained


class SoundEncoder(Protocol):
    """Encoder from sound, and the words around it, to Stable Diffusion's `prompt_embeds`."""

    sample_rate: int  # Hz of the input waves
    min_seconds: float  # duration of the shortest sound that can be encoded
    window: float  # seconds of one training item; the tokens of a longer sound are the mean over its windows
    width: int  # D, which must be the text encoder's
    prompt: str  # default prompt, with `PLACEHOLDER` in the place of an audio token

    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) of equal length, float32 -> audio tokens (B, K, D) float32."""
        ...

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode a prompt for each sound with its audio tokens (B, K, D) -> `prompt_embeds` (B, L, D).

        Raises:
            ValueError: a prompt does not fit the tokens, or is longer than the text encoder's input.
        """
        ...


def remove_placeholder(prompt: str) -> str:
    """Reduce a prompt to its words: "a photo of <*>, 4k" -> "a photo of, 4k"."""
    words = " ".join(prompt.replace(PLACEHOLDER, " ").split())
    return words.replace(" ,", ",").replace(" .", ".").strip(" ,")


def repeat_to_length(wave: Tensor, length: int) -> Tensor:
    """Repeat a wave (n,) that is shorter than `length` samples up to that length; a longer one stays as it is."""
    return wave if len(wave) >= length else wave.repeat(length // max(1, len(wave)) + 1)[:length]
