"""Sampling that starts from a recording instead of noise, and keeps parts of it.

Audio-to-audio is SDEdit (Meng et al. 2021, arXiv 2108.01073); inpainting puts the noised original back after every step
(Lugmayr et al. 2022, arXiv 2201.09865, without its resampling). B sounds, N samples of the result; a mask is True where
the sound is generated anew.
"""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.modules.sampling import add_noise, begin, is_between_steps, scale_noise

STRENGTH = 0.8  # default without a mask
FADE_SECONDS = 0.02  # cross-fade from the original into the generated sound, inside the mask
SILENT = 1e-4  # a wave with a lower peak counts as silent

Span = tuple[float, float | None]  # seconds from the start; None is the end
Spans = Sequence[Span]


class FromNoise:
    """Sampling from pure noise: the hooks of the denoising loop, which `FromAudio` overrides."""

    def start(self, scheduler: Any, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Set the timesteps and return the first latents (B, z, h, w) and the timesteps to run."""
        begin(scheduler, steps, 1.0, noise.device)
        return scale_noise(scheduler, noise), scheduler.timesteps

    def after_step(self, latents: Tensor) -> Tensor:
        """Adjust the latents (B, z, h, w) after a step of the scheduler."""
        return latents

    def merge_mel(self, mel: Tensor) -> Tensor:
        """Adjust the decoded ln mel (B, M, T)."""
        return mel

    def merge_wave(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Adjust the wave (B, N) and return it with the gains (B,) that were applied."""
        return wave, wave.new_ones(len(wave))


@dataclass
class FromAudio(FromNoise):
    """Sampling from a recording at the noise level of its strength; outside its mask the original remains."""

    wave: Tensor  # the recording (B, N), as long as the result
    mask: Tensor | None  # (N,) True where the sound is generated anew; None: everywhere
    strength: float  # share of the denoising steps that run, above 0 to 1
    sample_rate: int  # Hz
    mel: Tensor = field(init=False)  # ln mel (B, M, T) of the recording; this and the next two are set before sampling
    clean: Tensor = field(init=False)  # its normalised latents (B, z, h, w)
    hop_size: int = field(init=False)  # samples of a mel frame

    def start(self, scheduler: Any, noise: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        self.scheduler, self.noise, self.clean = scheduler, noise, self.clean.to(noise.dtype)
        self.index = begin(scheduler, steps, self.strength, noise.device)
        timesteps = scheduler.timesteps[self.index :]
        if self.strength == 1:
            return self._restore(scale_noise(scheduler, noise)), timesteps
        return add_noise(scheduler, self.clean, noise, self.index), timesteps

    def after_step(self, latents: Tensor) -> Tensor:
        self.index += 1
        return self._restore(latents) if is_between_steps(self.scheduler) else latents

    def _restore(self, latents: Tensor) -> Tensor:
        """Put the original back outside the mask, at the noise level of the next step."""
        original = add_noise(self.scheduler, self.clean, self.noise, self.index)
        return self.merge(latents, original, self.hop_size * self.mel.shape[-1] // latents.shape[-1])

    def merge(self, generated: Tensor, original: Tensor, unit: int) -> Tensor:
        """`generated` (..., w), of `unit` samples each, inside the mask and after the end, `original` elsewhere."""
        if self.mask is None:
            return generated
        return torch.where(mask_units(self.mask, unit, generated.shape[-1]).to(generated.device), generated, original)

    def merge_mel(self, mel: Tensor) -> Tensor:
        return self.merge(mel, self.mel.to(mel.dtype), self.hop_size)

    def merge_wave(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """`wave` inside the mask, scaled down to a peak of 1 so that the original need not be, and cross-faded."""
        if self.mask is None:
            return super().merge_wave(wave)
        gains = 1 / wave[:, self.mask.to(wave.device)].abs().amax(dim=1).clamp(min=1)
        return splice(self.wave, wave * gains[:, None], self.mask, round(FADE_SECONDS * self.sample_rate)), gains


def check_source(
    sound: Any, count: int, strength: float | None, spans: Spans | Span | None, samples: int | None, sample_rate: int,
    seconds: tuple[float, float],
) -> FromAudio:  # fmt: skip
    """Check the recording to start from and bring it to the length of the result.

    Args:
        sound: path of a file, or (n,) or (b, n), any kind of array. Integers are scaled by the range of their type.
        count: B, a multiple of b.
        spans: seconds to generate anew, several or one; None is everything.
        samples: length of the result; None: as long as the recording.
        seconds: shortest recording and longest result.

    Raises:
        ValueError: a sound, strength or span that cannot be used.
    """
    strength = default_strength(strength, spans)
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength:g}")
    if isinstance(sound, (str, os.PathLike)):
        sound = _read(sound, sample_rate, seconds[1] + 1)
    wave = _check_wave(sound, count, round(seconds[0] * sample_rate), sample_rate)
    given, samples = wave.shape[1], samples or wave.shape[1]
    mask = None if spans is None else mask_samples(as_spans(spans), samples, sample_rate)
    if samples > given and (mask is None or not mask[given:].all()):
        hint = "to generate the rest, continue it (--continuation, or a mask from its end)"
        sizes = f"duration {samples / sample_rate:g} s is longer than init_audio ({given / sample_rate:g} s)"
        raise ValueError(f"{sizes}: {hint}")
    if samples > given and strength < 1:
        raise ValueError(f"strength {strength:g} cannot be used where init_audio is continued: leave it at 1")
    if samples > round(seconds[1] * sample_rate):
        raise ValueError(f"init_audio is longer than {seconds[1]:g} s: give a shorter one, or a duration")
    mirrored = wave.flip(1)[:, 1 : 1 + max(0, samples - given)]  # else the autoencoder would encode an end of the sound
    wave = torch.cat([wave[:, :samples], mirrored], dim=1)
    return FromAudio(F.pad(wave, (0, samples - wave.shape[1])), mask, strength, sample_rate)


def as_spans(mask: Spans | Span) -> Spans:
    """Several spans, or one as (start, end), as several."""
    return [mask] if len(mask) == 2 and isinstance(mask[0], (int, float)) else mask  # type: ignore[return-value,list-item]


def default_strength(strength: float | None, spans: Spans | Span | None) -> float:
    """The given strength, else 1 with a mask (all of it is new) and `STRENGTH` for a whole recording."""
    return strength if strength is not None else STRENGTH if spans is None else 1.0


def _read(path: str | os.PathLike[str], sample_rate: int, seconds: float) -> Any:
    """Read a sound file (n,); raises a UserError of sonolume, which exported folders do without, or a ValueError."""
    try:
        audio = importlib.import_module("sonolume.utils.audio")
    except ImportError as error:
        raise ValueError(f"init_audio {path}: sonolume is needed to read files: give an array of samples") from error
    return audio.load(path, sample_rate, seconds=seconds)


def _check_wave(sound: Any, count: int, least: int, sample_rate: int) -> Tensor:
    """(n,) or (b, n) -> (B, n) float32, each of the b rows repeated."""
    wave = _as_floats(torch.as_tensor(sound))
    wave = wave[None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not len(wave) or count % len(wave):
        raise ValueError(f"init_audio is {tuple(wave.shape)}: expected (samples,), or a row for each text or sound")
    given, needed = wave.shape[1] / sample_rate, least / sample_rate
    if given < needed:
        raise ValueError(f"init_audio is too short: {given:g} s, at least {needed:g} s are needed")
    if not wave.isfinite().all():
        raise ValueError("init_audio holds NaN or infinite values")
    if (wave.abs().amax(dim=1) < SILENT).any():
        raise ValueError("init_audio is silent")
    return wave.repeat_interleave(count // len(wave), dim=0)


def _as_floats(wave: Tensor) -> Tensor:
    """Samples of any type -> float32, integers scaled from the range of their type to -1 to 1."""
    if wave.is_floating_point():
        return wave.float()
    if wave.is_complex() or wave.dtype in (torch.bool, torch.int64):
        kind = str(wave.dtype).removeprefix("torch.")
        raise ValueError(f"init_audio holds {kind} values: give floats from -1 to 1, or samples such as int16")
    limits = torch.iinfo(wave.dtype)
    half = (limits.max - limits.min + 1) / 2
    return ((wave.double() - (limits.min + half)) / half).float()  # unsigned samples have their zero in the middle


def mask_samples(spans: Spans, samples: int, sample_rate: int) -> Tensor:
    """Spans in seconds -> mask (N,), True inside them; raises a ValueError for an empty, reversed or outside span."""
    if not spans:
        raise ValueError("mask is empty: give at least one start and end in seconds")
    mask = torch.zeros(samples, dtype=torch.bool)
    for start, end in spans:
        name = f"mask {start:g}-{'' if end is None else f'{end:g}'}"
        first, last = round(start * sample_rate), samples if end is None else round(end * sample_rate)
        if last < first and end is not None:
            raise ValueError(f"{name} is reversed: its end must be after its start")
        if start < 0 or first >= samples or last > samples:
            raise ValueError(f"{name} lies outside the sound, which lasts {samples / sample_rate:g} s")
        if last == first:
            raise ValueError(f"{name} is empty: its end must be after its start")
        mask[first:last] = True
    return mask


def mask_units(mask: Tensor, unit: int, count: int) -> Tensor:
    """Mask of samples (N,) -> mask of `count` latents or mel frames of `unit` samples; True after the end.

    A unit with less than a quarter of it inside the mask is kept: what was generated there would only be cut off.
    """
    inner = torch.zeros(count * unit, dtype=torch.bool)
    inner[len(mask) :] = True
    for start, end in runs(mask):
        margin = unit // 4 if end - start > unit // 2 else 0
        inner[start + margin * (start > 0) : end - margin * (end < len(mask))] = True
    return inner.view(count, unit).any(dim=1)


def runs(mask: Tensor) -> list[tuple[int, int]]:
    """(N,) booleans -> start and end of every run of True."""
    edge = mask.new_zeros(1, dtype=torch.int8)
    changes = torch.diff(mask.to(torch.int8), prepend=edge, append=edge).nonzero()[:, 0].tolist()
    return list(zip(changes[::2], changes[1::2], strict=True))


def splice(original: Tensor, generated: Tensor, mask: Tensor, fade: int) -> Tensor:
    """The original (B, N) with `generated` (B, N) inside the mask (N,), cross-faded over `fade` samples inside of it.

    Outside the mask the samples are the original's, bit for bit.
    """
    weight = mask.to(generated.dtype)
    for start, end in runs(mask):
        length = min(fade, (end - start) // 2)
        ramp = torch.sin(torch.pi / 2 * (torch.arange(length) + 0.5) / max(length, 1)).square()
        if start > 0:
            weight[start : start + length] = ramp
        if end < len(mask):
            weight[end - length : end] = ramp.flip(0)
    weight = weight.to(generated.device)
    return torch.where(weight > 0, weight * generated + (1 - weight) * original, original)
