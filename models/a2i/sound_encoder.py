"""Encoders of sound for the audio-to-image pipeline, and the parts of a sound that they encode.

n samples of a wave, B sounds, K audio tokens each, L text tokens, D width of the text encoder.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sonolume.utils.audio import SILENCE_PEAK, SoundError, check_wave

HOP = 0.1  # seconds between two candidates for the loudest window
NOISE_LEVEL = 0.01  # standard deviation of `white_noise`
ENERGY_UNIT = 2.0**-30  # of the peak's square, in which the loudness of windows is counted

Wave = Tensor | np.ndarray
Span = tuple[float, float]  # start and end in seconds


class LongSounds(StrEnum):
    """Treatment of sounds that are longer than `SoundEncoder.window`."""

    mean = "mean"  # of the tokens of evenly spread windows
    loudest = "loudest"  # the loudest window alone
    beginning = "beginning"  # the first window alone; the encoder receives the whole sound, to normalise it
    refuse = "refuse"  # an error


class SoundInput(Protocol):
    """The sounds that an encoder takes."""

    sample_rate: int  # Hz of the input waves
    min_seconds: float  # duration of the shortest sound that can be encoded
    window: float  # seconds of one training item, which are encoded at once
    long_sounds: LongSounds  # treatment of longer sounds


class SoundEncoder(SoundInput, Protocol):
    """Encoder from sound, and the words around it, to Stable Diffusion's `prompt_embeds`.

    An encoder may also have `head`, an `AudioAttention` (modules/decoupled_attention.py). Then the U-Net attends to the
    audio tokens through it, and `encode_prompt` puts them behind the text states, where zeros are no sound. Where the
    head was trained to see other tokens than zeros in the negative half of guidance, the encoder has a method
    `negative_tokens`: it returns these tokens (B, m K, D) for the audio tokens (B, m K, D) of the prompts.
    """

    num_tokens: int  # K of one sound
    width: int  # D, which must be the text encoder's
    prompt: str  # default prompt, with `PLACEHOLDER` in the place of an audio token

    def to(self, device: torch.device) -> object:
        """Move the networks."""
        ...

    def use_preset(self, name: str) -> None:
        """Encode as one of `PRESETS` does; "reference" is the published inference."""
        ...

    def encode_audio(self, waves: Sequence[Tensor]) -> Tensor:
        """Encode waves (n,) of equal length, float32 -> audio tokens (B, K, D) float32."""
        ...

    def encode_prompt(self, audio_tokens: Tensor, prompts: Sequence[str], tokenizer: Any, text_encoder: Any) -> Tensor:
        """Encode a prompt for each sound with its audio tokens (B, K, D) -> `prompt_embeds` (B, L, D).

        The tokens are on the device on which the text encoder computes; its weights may be elsewhere (offloaded).

        Raises:
            ValueError: a prompt does not fit the tokens, or is longer than the text encoder's input.
        """
        ...


def encoded_seconds(wave: Wave, encoder: SoundInput, average: bool = False, name: str = "the sound") -> list[Span]:
    """Choose the seconds of a wave (n,) that are encoded, by `encoder.long_sounds` if it is longer than a window.

    "mean": evenly spread windows that cover it, without the silent ones. "loudest": the window with the largest mean
    square, the first of equals, from a search every 0.1 s. "beginning": the first window. "refuse": a SoundError.

    Args:
        average: "mean", whatever the encoder says.
        name: of the sound, for messages.

    Raises:
        ValueError: the wave has more than one channel.
        SoundError: the wave is too short, silent, not finite, or too long for an encoder that refuses long sounds.
    """
    samples = _encoded_samples(torch.as_tensor(wave, dtype=torch.float32), encoder, average, name)
    return [(start / encoder.sample_rate, end / encoder.sample_rate) for start, end in samples]


def windows_of(wave: Wave, encoder: SoundEncoder, average: bool, name: str) -> list[Tensor]:
    """Cut the waves (n,) that the encoder receives out of a wave; arguments and errors as `encoded_seconds`."""
    wave = torch.as_tensor(wave, dtype=torch.float32)
    samples = _encoded_samples(wave, encoder, average, name)
    if encoder.long_sounds is LongSounds.beginning and not average:
        return [wave]
    return [wave[start:end] for start, end in samples]


def _encoded_samples(wave: Tensor, encoder: SoundInput, average: bool, name: str) -> list[tuple[int, int]]:
    """Check a wave (n,); return the first and last sample, exclusive, of each window of it that is encoded."""
    rate = encoder.sample_rate
    if wave.ndim != 1:
        raise ValueError(f"{name} is {tuple(wave.shape)}: expected one channel, (samples,)")
    check_wave(wave.cpu().numpy(), rate, name, encoder.min_seconds)
    length = round(encoder.window * rate)
    count = math.ceil(len(wave) / length)
    if count == 1:
        return [(0, len(wave))]
    policy = LongSounds.mean if average else encoder.long_sounds
    if policy is LongSounds.refuse:
        sizes = f"{round(len(wave) / rate, 3):g} s long, at most {encoder.window:g} s are encoded"
        raise SoundError(f"{name}: {sizes}: --span START-END chooses a part", "too long")
    if policy is LongSounds.beginning:
        starts = [0]
    elif policy is LongSounds.loudest:
        starts = [_loudest(wave.cpu().numpy(), length, round(HOP * rate))]
    else:
        starts = [round(number * (len(wave) - length) / (count - 1)) for number in range(count)]
        starts = [start for start in starts if wave[start : start + length].abs().max() >= SILENCE_PEAK]
    return [(start, start + length) for start in starts]


def _loudest(wave: np.ndarray, length: int, hop: int) -> int:
    """Start of the window of `length` samples with the largest mean square, the first of equals.

    Candidates begin every `hop` samples; the last one ends with the wave (n,).
    """
    squares = np.square(wave / np.abs(wave).max(), dtype=np.float32)
    sums = np.rint(squares / np.float32(ENERGY_UNIT)).astype(np.int64)  # equal windows have equal sums of integers
    np.cumsum(sums, out=sums)
    starts = np.append(np.arange(0, len(wave) - length, hop), len(wave) - length)
    before = np.where(starts > 0, sums[starts - 1], 0)
    return int(starts[np.argmax(sums[starts + length - 1] - before)])


def white_noise(encoder: SoundEncoder, seed: int) -> Tensor:
    """One window of white noise (n,) at the encoder's rate; as a negative sound, it is far from any recording."""
    generator = torch.Generator().manual_seed(seed)
    return NOISE_LEVEL * torch.randn(round(encoder.window * encoder.sample_rate), generator=generator)


def repeat_to_length(wave: Tensor, length: int) -> Tensor:
    """Repeat a wave (n,) that is shorter than `length` samples up to that length; a longer one stays as it is."""
    return wave if len(wave) >= length else wave.repeat(length // max(1, len(wave)) + 1)[:length]
