"""Decoupled cross-attention: a second attention, over the states of a sound, beside that over the text in a U-Net.

As IP-Adapter (arXiv 2308.06721) does with pictures, and MACS (AAAI 2026) with sounds. The states of the sound follow
those of the text in `encoder_hidden_states`, so that guidance, gradient checkpointing and every stock pipeline carry
them. B items, L text states, K audio states of C values, D width of the text states, S positions of the picture, N
inner width of an attention layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


class AudioAttention(ModelMixin, ConfigMixin):
    """Keys and values of audio states for every cross-attention layer of a U-Net; fresh ones change no picture.

    Args:
        layers: inner width N of each layer by its name in the U-Net, as `cross_attention_sizes` returns it.
        width: D.
        text_length: L, after which the states of the sound begin.
        num_states: K of one sound.
        input_size: C; where it is not D, the states are first projected to D.
    """

    @register_to_config
    def __init__(self, layers: dict[str, int], width: int, text_length: int, num_states: int, input_size: int) -> None:
        super().__init__()
        project = nn.Sequential(nn.LayerNorm(input_size), nn.Linear(input_size, width))
        self.project = nn.Identity() if input_size == width else project
        self.projections = nn.ModuleList(KeysAndValues(width, size) for size in layers.values())

    def forward(self, states: Tensor) -> Tensor:
        """Project audio states (B, K, C) -> (B, K, D), which follow the text states."""
        return self.project(states)


class KeysAndValues(nn.Module):
    """Projections of one layer; the values begin at zero."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(width, size, bias=False)
        self.to_v = nn.Linear(width, size, bias=False)
        nn.init.zeros_(self.to_v.weight)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, N) of states (B, K, D).

        The keys see the states normalised, so that states times s are attended to alike, with an output times s.
        States of zero are no sound: their output is zero.
        """
        states = states.to(self.to_v.weight.dtype)                                  # (B, K, D)
        return self.to_k(F.layer_norm(states, states.shape[-1:])), self.to_v(states)


class DecoupledProcessor:
    """Attention processor that adds the attention over the audio states to that of another processor over the text.

    Text states alone, as of the empty prompt, are processed by the other one as if this one were not there.
    """

    def __init__(self, text: Any, audio: KeysAndValues, text_length: int) -> None:
        self.text, self.audio, self.text_length = text, audio, text_length

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attend from (B, S, ...) to text and audio states (B, L + K, D) -> (B, S, ...)."""
        texts, sounds = encoder_hidden_states.tensor_split([self.text_length], dim=1)
        output: Tensor = self.text(attn, hidden_states, texts, attention_mask, temb)
        if not sounds.shape[1]:
            return output
        query = attn.to_q(hidden_states)                                            # (B, S, N)
        key, value = (one.to(query.dtype) for one in self.audio(sounds))            # (B, K, N) each
        heads = [one.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for one in (query, key, value)]
        with sdpa_kernel(SDPBackend.MATH) if isinstance(self.text, AttnProcessor) else nullcontext():  # no fused kernel
            found = F.scaled_dot_product_attention(*heads)                          # (B, heads, S, N / heads)
        found = found.transpose(1, 2).flatten(2)                                    # (B, S, N)
        to_out: Any = attn.to_out
        bias = to_out[0](torch.zeros_like(found[:1, :1]))                           # (1, 1, ...), which the text has
        return output + (to_out[0](found) - bias)


def cross_attention_layers(unet: nn.Module) -> dict[str, Attention]:
    """Cross-attention layers of a U-Net by name."""
    modules = unet.named_modules()
    return {name: one for name, one in modules if isinstance(one, Attention) and one.is_cross_attention}


def cross_attention_sizes(unet: nn.Module) -> dict[str, int]:
    """Inner width of every cross-attention layer of a U-Net by name."""
    return {name: layer.inner_dim for name, layer in cross_attention_layers(unet).items()}


def check(head: AudioAttention, unet: nn.Module) -> None:
    """Raise a ValueError if the head was made for another U-Net."""
    own, needed = head.config["layers"], cross_attention_sizes(unet)
    if dict(own) != needed:
        name = next(name for name in {**needed, **own} if own.get(name) != needed.get(name))
        raise ValueError(f"the head attention was trained for another U-Net: {name} is {own.get(name, 'missing')} "
                         f"wide in the head, {needed.get(name, 'missing')} in the U-Net")  # fmt: skip


def install(head: AudioAttention, unet: nn.Module) -> None:
    """Let the cross-attention layers of a U-Net attend to audio states, too; the U-Net gets no weights.

    Raises:
        ValueError: the head was made for another U-Net.
    """
    check(head, unet)
    for layer, audio in zip(cross_attention_layers(unet).values(), head.projections, strict=True):
        before = layer.processor
        text = before.text if isinstance(before, DecoupledProcessor) else before
        layer.set_processor(DecoupledProcessor(text, audio, head.config["text_length"]))  # type: ignore[arg-type]


@contextmanager
def installed(head: AudioAttention | None, unet: nn.Module) -> Iterator[None]:
    """`install` the head inside the block; None changes nothing."""
    layers = cross_attention_layers(unet).values() if head is not None else ()
    before = [layer.processor for layer in layers]
    try:
        if head is not None:
            install(head, unet)
        yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.set_processor(processor)  # type: ignore[arg-type]
