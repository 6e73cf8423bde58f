"""What a recipe of audio to image must bring: an encoder from sound to the conditioning of Stable Diffusion.

B sounds, K tokens heard of each, L text tokens, D width of the conditioning.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from sonolume.modules.audiotoken.injection import PLACEHOLDER


class SoundEncoder(Protocol):
    """Sound, and words around it -> `prompt_embeds`. Everything else is `AudioToImagePipeline`'s."""

    sample_rate: int
    """Hz of the waves it takes"""
    shortest: float
    """seconds that a sound must last"""
    window: float
    """seconds it was trained on; of a longer sound the tokens of its windows are averaged"""
    width: int
    """D, which must be the text encoder's"""
    prompt: str
    """used where none is given, with `PLACEHOLDER` where a token goes"""

    def hear(self, waves: Sequence[Tensor]) -> Tensor:
        """Waves (n,) of equal length, float32 -> what was heard, (B, K, D) float32: tokens in the text space."""
        ...

    def condition(self, heard: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Tokens (B, K, D) and a prompt for each -> `prompt_embeds` (B, L, D).

        Raises:
            ValueError: a prompt that does not fit the tokens, or that the text encoder would cut.
        """
        ...


def without_sound(prompt: str) -> str:
    """The words of a prompt alone: "a photo of <*>, 4k" -> "a photo of, 4k"."""
    words = " ".join(prompt.replace(PLACEHOLDER, " ").split())
    return words.replace(" ,", ",").replace(" .", ".").strip(" ,")
