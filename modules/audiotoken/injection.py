"""Injection of vectors into a prompt: a stock CLIP text encoder reads `<*>` as an audio token instead of a word.

A forward hook replaces the input embeddings of the placeholders for one call: no table is resized, no weight changes,
and the gradient reaches the vectors. B prompts, L tokens, K vectors of each prompt, D width of the text encoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sonolume.config.audio_to_image import PLACEHOLDER

PLACEHOLDER_ID = -1  # in ids, in the place of a vector; not a token of any vocabulary


def tokenise(tokenizer: Any, prompts: Sequence[str], placeholder: str = PLACEHOLDER) -> Tensor:
    """Tokenize prompts into padded ids (B, L), with `PLACEHOLDER_ID` in the place of the placeholder.

    The tokenizer itself is not changed.

    Raises:
        ValueError: a prompt has no placeholder, or the text encoder would cut it.
    """
    return torch.stack([_ids(tokenizer, prompt, placeholder) for prompt in prompts])


def _ids(tokenizer: Any, prompt: str, placeholder: str) -> Tensor:
    if placeholder not in prompt:
        raise ValueError(f"the prompt {prompt!r} has no {placeholder}: write it where the sound belongs")
    words: list[int] = []
    for number, piece in enumerate(prompt.split(placeholder)):
        words += [PLACEHOLDER_ID] * bool(number)
        words += tokenizer(piece, add_special_tokens=False).input_ids if piece.strip() else []
    limit = tokenizer.model_max_length - 2
    if len(words) > limit:
        raise ValueError(f"the prompt {prompt!r} has {len(words)} tokens, the text encoder reads {limit}: shorten it")
    ids = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
    return torch.tensor(ids + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids)))


def inject(text_encoder: nn.Module, ids: Tensor, vectors: Tensor, placeholder_id: int = PLACEHOLDER_ID) -> Any:
    """Run the text encoder with `vectors` at the placeholders, and return its output (`last_hidden_state` (B, L, D)).

    Args:
        text_encoder: transformers' CLIPTextModel.
        ids: (B, L) with `placeholder_id` in the place of each vector.
        vectors: (B, K, D). With K = 1 every placeholder of a prompt takes its one vector; otherwise a prompt has K
            placeholders, which take the vectors in their order.

    Raises:
        ValueError: a prompt has no placeholder, or their number or the width does not fit the vectors.
    """
    mask = ids == placeholder_id                                                      # (B, L)
    _check(mask, vectors, text_encoder.get_input_embeddings().weight.shape[1])        # type: ignore[operator]
    place = (mask.cumsum(dim=1) - 1).clamp(0, vectors.shape[1] - 1)                   # (B, L)
    spread = vectors.gather(1, place[..., None].expand(-1, -1, vectors.shape[2]))     # (B, L, D)
    any_word = int(text_encoder.config.bos_token_id or 0)  # type: ignore[union-attr]  # its embedding is replaced

    def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.where(mask[..., None], spread.to(output.dtype), output)

    hook = text_encoder.get_input_embeddings().register_forward_hook(replace)  # type: ignore[operator]
    try:
        return text_encoder(ids.masked_fill(mask, any_word))
    finally:
        hook.remove()


def _check(mask: Tensor, vectors: Tensor, width: int) -> None:
    if vectors.shape[0] != mask.shape[0] or vectors.shape[2] != width:
        raise ValueError(f"{len(mask)} prompts of width {width} cannot take vectors of shape {tuple(vectors.shape)}")
    counts, needed = mask.sum(dim=1), vectors.shape[1]
    wrong = (counts == 0) if needed == 1 else (counts != needed)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"prompt {row} has {int(counts[row])} placeholders for {needed} vectors")
