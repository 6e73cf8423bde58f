"""Prompts in which the states of a sound stand among the text states, in the place of `<*>`.

B prompts, K states of a sound, m sounds of a prompt, L states of a prompt, D width of the text encoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sonolume.config.audio_to_image import PLACEHOLDER


def states_prompt(
    sounds: Tensor, prompts: Sequence[str], num_states: int, tokenizer: Any, text_encoder: Any
) -> Tensor:
    """Put the states of sounds into the places of `<*>` among the text states of prompts -> (B, L, D).

    The prompt `<*>` is the start state of the text encoder and the states of the sound, as published by audio2img.
    Words around it are encoded as one text, with their end state. Shorter prompts of a batch are padded as texts are.

    Args:
        sounds: (B, m K, D), the states of m sounds for m places; those of one sound are repeated.
        num_states: K.

    Raises:
        ValueError: a prompt does not fit the sounds, or is longer than the text encoder's input.
    """
    pairs = zip(sounds, prompts, strict=True)
    rows = [_prompt_states(tokens, prompt, num_states, tokenizer, text_encoder) for tokens, prompt in pairs]
    length = max(len(row) for row, _ in rows)
    return torch.stack([torch.cat([row, padding[: length - len(row)]]) for row, padding in rows])      # (B, L, D)


def _prompt_states(
    tokens: Tensor, prompt: str, num_states: int, tokenizer: Any, text_encoder: Any
) -> tuple[Tensor, Tensor]:
    """States (l, D) of one prompt with those of its sounds (m K, D), and the states of the padding after it (p, D)."""
    pieces = [tokenizer(piece, add_special_tokens=False).input_ids if piece.strip() else []
              for piece in prompt.split(PLACEHOLDER)]  # fmt: skip
    sounds = _sounds(tokens, num_states, len(pieces) - 1, prompt)
    words, limit = [number for piece in pieces for number in piece], tokenizer.model_max_length
    if len(words) + 2 > limit:
        raise ValueError(f"the prompt {prompt!r} has {len(words)} tokens, the text encoder reads {limit - 2}: "
                         "shorten it")  # fmt: skip
    ids = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (limit - len(ids))
    states = text_encoder(torch.tensor([ids], device=tokens.device))[0][0].to(tokens.dtype)            # (limit, D)
    sizes = [1 + len(pieces[0]), *map(len, pieces[1:])]
    texts = states[: sum(sizes)].split(sizes)
    row = [texts[0], *(part for sound, text in zip(sounds, texts[1:], strict=True) for part in (sound, text))]
    end = sum(sizes) + bool(words)  # the end state, unless there are no words
    return torch.cat([*row, states[sum(sizes) : end]]), states[end:]


def _sounds(tokens: Tensor, num_states: int, places: int, prompt: str) -> list[Tensor]:
    """Split the states (m K, D) of m sounds for the places of a prompt; one sound fills them all."""
    count = len(tokens) // num_states
    if not places or count not in (1, places) or len(tokens) % num_states:
        raise ValueError(f"the prompt {prompt!r} has {places} places {PLACEHOLDER} for {count} sounds")
    return list(tokens.split(num_states)) * (places if count == 1 else 1)
