"""Starting from a sound instead of from noise, and keeping parts of it.

Audio-to-audio as SDEdit (Meng et al. 2021, arXiv 2108.01073); inpainting by putting the noised original back at every
step (Lugmayr et al. 2022, arXiv 2201.09865, without its resampling). Shapes: B sounds, N samples of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

STRENGTH = 0.8  # where none is given
FADE_SECONDS = 0.02  # from the original into what is made anew, inside the mask
SILENT = 1e-4  # a peak below this is silence

Spans = Sequence[tuple[float, float | None]]  # seconds from the start; None: to the end


@dataclass(frozen=True)
class Original:
    """The sound to start from, as long as the result, and what of it is kept."""

    wave: Tensor  # (B, N)
    renewed: Tensor | None  # (N,) true where the sound is made anew; None: everywhere
    strength: float  # above 0 to 1

    def keep(self, made: Tensor, old: Tensor, unit: int) -> Tensor:
        """`made` (..., w) where the sound is renewed, and beyond it; `old` (..., w) elsewhere.

        Args:
            unit: samples of one latent or mel frame.
        """
        if self.renewed is None:
            return made
        return torch.where(renewed_units(self.renewed, unit, made.shape[-1]).to(made.device), made, old)

    def keep_wave(self, made: Tensor, fade: int) -> tuple[Tensor, Tensor]:
        """`made` (B, N) where the sound is renewed, cross-faded over `fade` samples, and the original elsewhere.

        What is made is brought down to a peak of 1, so that the original need not be: gains (B,).
        """
        if self.renewed is None:
            return made, made.new_ones(len(made))
        peaks = made[:, self.renewed.to(made.device)].abs().amax(dim=1)
        gains = 1 / peaks.clamp(min=1)
        return splice(self.wave, made * gains[:, None], self.renewed, fade), gains


def original(
    sound: Any,
    count: int,
    strength: float | None,
    spans: Spans | None,
    samples: int | None,
    sample_rate: int,
    shortest: float,
) -> Original:
    """Check what was given for editing and bring it to the length of the result.

    Args:
        sound: (n,) or (b, n), any kind of array. count: B, a multiple of b.
        samples: of the result; None: as long as the sound.
        shortest: seconds that the sound must last.

    Raises:
        ValueError: a sound, strength or span that cannot be used; the message says why.
    """
    strength = given_strength(strength, spans)
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, got {strength:g}")
    wave = _checked(sound, count, round(shortest * sample_rate), sample_rate)
    given, samples = wave.shape[1], samples or wave.shape[1]
    renewed = None if spans is None else renewed_samples(spans, samples, sample_rate)
    beyond = renewed is not None and bool(renewed[given:].all())
    if samples > given and not beyond:
        raise ValueError(
            f"duration {samples / sample_rate:g} s is longer than init_audio ({given / sample_rate:g} s): "
            "to make the rest, continue it (--continuation, or a mask from its end)"
        )
    if samples > given and strength < 1:
        raise ValueError(f"strength {strength:g} has no meaning where init_audio is continued: leave it at 1")
    return Original(_lengthened(wave, samples), renewed, strength)


def given_strength(strength: float | None, spans: Spans | None) -> float:
    """The strength, or its default: all of what is masked is made anew, but only some of a whole sound."""
    return strength if strength is not None else STRENGTH if spans is None else 1.0


def _checked(sound: Any, count: int, least: int, sample_rate: int) -> Tensor:
    """(n,) or (b, n) -> (B, n) float32, each of the b rows as often as needed."""
    wave = torch.as_tensor(sound, dtype=torch.float32)
    wave = wave[None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not len(wave) or count % len(wave):
        raise ValueError(f"init_audio is {tuple(wave.shape)}: expected (samples,), or a row for each text or sound")
    if wave.shape[1] < least:
        seconds = f"{wave.shape[1] / sample_rate:g} s, at least {least / sample_rate:g} s are needed"
        raise ValueError(f"init_audio is too short: {seconds}")
    if not wave.isfinite().all():
        raise ValueError("init_audio holds NaN or infinite values")
    if (wave.abs().amax(dim=1) < SILENT).any():
        raise ValueError("init_audio is silent: there is nothing to start from")
    return wave.repeat_interleave(count // len(wave), dim=0)


def _lengthened(wave: Tensor, samples: int) -> Tensor:
    """(B, n) -> (B, N): cut, or gone on with its mirror image and then with silence.

    What follows is made anew; the mirror image keeps the autoencoder from seeing an end before it.
    """
    wave = wave[:, :samples]
    mirrored = wave.flip(1)[:, 1 : 1 + samples - wave.shape[1]]
    wave = torch.cat([wave, mirrored], dim=1)
    return F.pad(wave, (0, samples - wave.shape[1]))


def renewed_samples(spans: Spans, samples: int, sample_rate: int) -> Tensor:
    """Spans in seconds -> (N,) true inside them.

    Raises:
        ValueError: a span is empty, reversed, or outside the sound.
    """
    if not spans:
        raise ValueError("mask is empty: give at least one start and end in seconds")
    renewed = torch.zeros(samples, dtype=torch.bool)
    for start, end in spans:
        name = f"mask {start:g}-{'' if end is None else f'{end:g}'}"
        first, last = round(start * sample_rate), samples if end is None else round(end * sample_rate)
        if last < first and end is not None:
            raise ValueError(f"{name} is reversed: its end must be after its start")
        if start < 0 or first >= samples or last > samples:
            raise ValueError(f"{name} lies outside the sound, which lasts {samples / sample_rate:g} s")
        if last == first:
            raise ValueError(f"{name} is empty: its end must be after its start")
        renewed[first:last] = True
    return renewed


def renewed_units(renewed: Tensor, unit: int, count: int) -> Tensor:
    """(N,) samples -> (count,) latents or mel frames of `unit` samples: true where made anew, and after the end.

    One of which less than a quarter is renewed stays: what was made there would only be cut off.
    """
    inner = torch.zeros(count * unit, dtype=torch.bool)
    inner[len(renewed) :] = True
    for start, end in spans_of(renewed):
        margin = unit // 4 if end - start > unit // 2 else 0
        inner[start + margin * (start > 0) : end - margin * (end < len(renewed))] = True
    return inner.view(count, unit).any(dim=1)


def begin(scheduler: Any, steps: int, strength: float, device: torch.device) -> int:
    """Set the timesteps; returns the index of the first step to make: the last `strength` of all, at least one."""
    scheduler.set_timesteps(steps, device=device)
    first = steps - max(1, round(steps * strength))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    elif first and _repeats_its_second(scheduler.timesteps):
        rest = scheduler.timesteps.unique().flip(0)[first:]  # PNDM takes its second step twice, wherever it starts
        scheduler.timesteps = torch.cat([rest[:2], rest[1:]])
        return 0
    return first


def _repeats_its_second(timesteps: Tensor) -> bool:
    return len(timesteps) > 2 and bool(timesteps[1] == timesteps[2])


def from_noise(scheduler: Any, noise: Tensor) -> Tensor:
    """What the first of all steps starts from."""
    return noise * getattr(scheduler, "init_noise_sigma", 1.0)


def noised(scheduler: Any, clean: Tensor, noise: Tensor, index: int) -> Tensor:
    """`clean` at the noise level of step `index`, the next one to make after `begin`; clean itself after the last."""
    if index == len(scheduler.timesteps):
        return clean
    time = scheduler.timesteps[index : index + 1]
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, time, noise)
    return scheduler.add_noise(clean, noise, time)


def splice(original: Tensor, made: Tensor, renewed: Tensor, fade: int) -> Tensor:
    """The original (B, N) with `made` (B, N) where it is renewed (N,), cross-faded over `fade` samples inside of it.

    Elsewhere the samples are the original's, bit for bit.
    """
    weight = renewed.to(made.dtype)
    for start, end in spans_of(renewed):
        length = min(fade, (end - start) // 2)
        ramp = torch.sin(torch.pi / 2 * (torch.arange(length) + 0.5) / max(length, 1)).square()
        if start > 0:
            weight[start : start + length] = ramp
        if end < len(renewed):
            weight[end - length : end] = ramp.flip(0)
    weight = weight.to(made.device)
    return torch.where(weight > 0, weight * made + (1 - weight) * original, original)


def spans_of(flags: Tensor) -> list[tuple[int, int]]:
    """(N,) booleans -> start and end of every run of true ones."""
    edge = flags.new_zeros(1, dtype=torch.int8)
    changes = torch.diff(flags.to(torch.int8), prepend=edge, append=edge).nonzero()[:, 0].tolist()
    return list(zip(changes[::2], changes[1::2], strict=True))
