"""Vocoding of long mel spectrograms in pieces, so that memory does not grow with their length."""

from typing import Any

import torch
from torch import Tensor

CHUNK = 2048  # frames vocoded at once
CONTEXT = 32  # further frames on each side; HiFi-GAN's receptive field is about 15


def vocode_in_chunks(mel: Tensor, vocoder: Any, chunk: int = CHUNK, context: int = CONTEXT) -> Tensor:
    """Vocode ln mel (B, M, T) with a `SpeechT5HifiGan` -> wave (B, T * hop), float32."""
    frames, waves = mel.shape[-1], []
    for start in range(0, frames, chunk):
        end = min(start + chunk, frames)
        left, right = max(0, start - context), min(end + context, frames)
        some = mel[..., left:right].transpose(1, 2).to(vocoder.dtype)  # (B, frames, M)
        wave = vocoder(some).float().reshape(len(mel), -1)             # (B, frames * hop)
        hop = wave.shape[1] // (right - left)
        waves.append(wave[:, (start - left) * hop : (end - left) * hop])
    return torch.cat(waves, dim=1)
