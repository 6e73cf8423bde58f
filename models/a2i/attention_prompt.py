"""Prompts in which the states of sounds follow the text states, for an attention of their own in the U-Net.

B prompts, K states of a sound, m sounds of a prompt, L text states, D width of the text encoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sonolume.config.audio_to_image import PLACEHOLDER
from sonolume.models.a2i.pipeline import remove_placeholder


def attention_prompt(
    sounds: Tensor, prompts: Sequence[str], num_states: int, tokenizer: Any, text_encoder: Any
) -> Tensor:
    """Encode the words of each prompt, followed by the states of its sounds -> (B, L + m K, D).

    Args:
        sounds: (B, m K, D), the states of m sounds for m places `<*>`; one sound fills any number of places.
        num_states: K.

    Raises:
        ValueError: a prompt does not fit the sounds, or is longer than the text encoder's input.
    """
    count = sounds.shape[1] // num_states
    for prompt in prompts:
        places = prompt.count(PLACEHOLDER)
        if not places or count not in (1, places):
            raise ValueError(f"the prompt {prompt!r} has {places} places {PLACEHOLDER} for {count} sounds")
    ids = tokenise([remove_placeholder(prompt) for prompt in prompts], tokenizer)
    states = text_encoder(ids.to(sounds.device))[0]                                               # (B, L, D)
    return torch.cat([states.to(sounds.dtype), sounds], dim=1)


def tokenise(texts: Sequence[str], tokenizer: Any, truncation: bool = False) -> Tensor:
    """Tokenize texts -> ids (B, L), padded to the text encoder's input.

    Raises:
        ValueError: a text is longer and there is no `truncation`.
    """
    limit = tokenizer.model_max_length
    rows = tokenizer(list(texts), padding="max_length", max_length=limit, truncation=truncation, verbose=False)
    for text, ids in zip(texts, rows.input_ids, strict=True):
        if len(ids) > limit:
            raise ValueError(f"{text!r} has {len(ids) - 2} tokens, the text encoder reads {limit - 2}: shorten it")
    return torch.tensor(rows.input_ids)
