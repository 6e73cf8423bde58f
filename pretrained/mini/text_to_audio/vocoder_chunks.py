"""A vocoder on long mel spectrograms, in memory that does not grow with their length."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 2048  # frames made at once
CONTEXT = 32  # frames seen beside them; HiFi-GAN's receptive field is about 15 to each side


def vocode_in_chunks(mel: Tensor, vocoder: Any, chunk: int = CHUNK, context: int = CONTEXT) -> Tensor:
    """ln mel (B, M, T) -> wave (B, T * hop), float32: what `vocoder`, a `SpeechT5HifiGan`, makes of the whole."""
    frames, waves = mel.shape[-1], []
    for start in range(0, frames, chunk):
        end = min(start + chunk, frames)
        left, right = max(0, start - context), min(end + context, frames)
        seen = mel[..., left:right].transpose(1, 2).to(vocoder.dtype)  # (B, frames, M)
        wave = vocoder(seen).float().reshape(len(mel), -1)             # (B, frames * hop)
        hop = wave.shape[1] // (right - left)
        waves.append(wave[:, (start - left) * hop : (end - left) * hop])
    return torch.cat(waves, dim=1)
