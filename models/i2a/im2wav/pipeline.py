"""Inference pipeline of Im2Wav: image vectors -> coarse tokens -> fine tokens -> wave.

B clips, F frames, V width of the image vectors, n samples, T tokens. Imports no Lightning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.models.i2a.im2wav import parts
from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.sampler import Progress, TokenSampler, TokenSampling
from sonolume.modules.im2wav.transformer import Condition
from sonolume.modules.im2wav.vqvae import VQVAE
from sonolume.modules.im2wav.windows import least_samples, sample_windows, window_frames, window_starts
from sonolume.utils import paths

LEVELS = {"up": 0, "low": 1}


@dataclass
class Request:
    """A batch of sounds to generate, of one length.

    Args:
        frames: (B, F, V) unit vectors at the pipeline's `fps` from the start of the sound; F = 1 for still images.
        seeds: seed of each of the B clips.
        samples: length of the sounds.
        negative: (B, 1, V) vectors of what the sounds should not contain.
    """

    frames: Tensor
    seeds: Sequence[int]
    samples: int
    negative: Tensor | None = None


class TokenStore:
    """Tokens of the finished windows; a subclass may keep them on disk, so that a killed run continues."""

    def __init__(self) -> None:
        self.levels: dict[str, Tensor] = {}

    def load(self, level: str) -> Tensor | None:
        """Tokens (B, T) of the finished windows of a level."""
        return self.levels.get(level)

    def save(self, level: str, tokens: Tensor) -> None:
        self.levels[level] = tokens


class Im2WavPipeline:
    """VQ-VAE and priors, ready to generate.

    Attributes:
        sample_rate: Hz.
        window: samples of the longest context of the priors.
        fps: image vectors in a second.
        guidance_scale: default scale of classifier-free guidance.
        compiled: on a CPU, compile the sampling steps of single clips; False at first.

    Raises:
        ValueError: networks that do not fit each other.
    """

    def __init__(self, vqvae: VQVAE, low: LowPrior, up: UpPrior | None, settings: dict[str, Any]) -> None:
        self.vqvae, self.low, self.up, self.settings = vqvae, low, up, settings
        self.sample_rate: int = settings["sample_rate"]
        self.window: int = settings["window"]
        self.fps: float = settings["fps"]
        self.guidance_scale: float = settings["guidance_scale"]
        self.compiled = False
        for level, prior in self.priors().items():
            self._check(level, prior)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: "torch.device | str" = "cpu", dtype: torch.dtype = torch.float32,
        with_up: bool = True,
    ) -> "Im2WavPipeline":  # fmt: skip
        """Load an exported folder or hub id.

        Args:
            with_up: load the Up prior; without it, only drafts from the coarse tokens can be generated.

        Raises:
            ValueError: no such folder, not available from the hub, the folder of another kind of model, or networks
                that do not fit each other.
            UserError: a network is missing or damaged.
        """
        key = cls.__name__
        place, settings = parts.read_settings(paths.locate(str(folder), key, flag=True), key)
        names = ("vqvae", "low", "up") if with_up else ("vqvae", "low")
        types = {"vqvae": torch.float32, "low": dtype, "up": dtype}
        networks = {name: parts.load(place, name, key, types[name]).to(device) for name in names}
        return cls(networks["vqvae"], networks["low"], networks.get("up"), settings)

    def priors(self) -> "dict[str, LowPrior | UpPrior]":
        """The loaded priors by level."""
        return {"low": self.low} | ({"up": self.up} if self.up else {})

    def _check(self, level: str, prior: Any) -> None:
        hop, codes = self.vqvae.hops[LEVELS[level]], self.vqvae.config.codes
        needed = self.window // hop
        if prior.config.positions != needed or prior.config.codes != codes:
            found = f"{prior.config.positions} positions and {prior.config.codes} codes"
            raise ValueError(f"the {level} prior has {found}, "
                             f"this VQ-VAE needs {needed} and {codes}: they are of two models")  # fmt: skip
        if (width := prior.config.image_width) != self.image_width:
            raise ValueError(f"the {level} prior takes image vectors of width {width}, "
                             f"the low prior of {self.image_width}: they are of two models")  # fmt: skip

    @property
    def image_width(self) -> int:
        """V."""
        return self.low.config.image_width

    @torch.no_grad()
    def __call__(
        self,
        request: Request,
        level: str = "up",
        sampling: TokenSampling | None = None,
        overlap: float | None = None,
        store: TokenStore | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Generate waves (B, n), not clipped.

        Args:
            level: "up" for the result, "low" for a draft decoded from the coarse tokens.
            sampling: settings; by default temperature 1 and the model's guidance.
            overlap: share of each window that continues the one before; by default the model's.
            store: keeps the tokens of finished windows; windows that it holds already are not sampled again.
            progress: called with the number of new tokens.

        Raises:
            ValueError: image vectors of another width, or sounds that the priors cannot represent.
        """
        self.check(request)
        sampling = sampling or TokenSampling(guidance=self.guidance_scale)
        store = store or TokenStore()
        tokens = self._sample("low", request, None, sampling, overlap, store, progress)  # (B, T)
        if level == "up":
            tokens = self._sample("up", request, tokens, sampling, overlap, store, progress)  # (B, 4 T)
        return self.vqvae.decode(tokens, LEVELS[level])[:, : request.samples]  # (B, n)

    def token_count(self, samples: int, level: str = "up") -> int:
        """Number of sampling steps for a sound of `samples` samples."""
        levels = ("low", "up") if level == "up" else ("low",)
        return sum(self._total(name, samples) for name in levels)

    def _total(self, level: str, samples: int) -> int:
        """Tokens of a level for a sound."""
        return self._padded(samples) // self.vqvae.hops[LEVELS[level]]

    def _padded(self, samples: int) -> int:
        """Samples of the tokens of a sound: whole coarse tokens, and at least one window."""
        hop = self.vqvae.hops[1]
        return max(-(-samples // hop) * hop, self.window)

    def _sample(
        self, level: str, request: Request, coarse: Tensor | None, sampling: TokenSampling, overlap: float | None,
        store: TokenStore, progress: Progress | None,
    ) -> Tensor:  # fmt: skip
        """Sample the tokens (B, T) of a level window by window."""
        prior, size = self.priors()[level], self.window // self.vqvae.hops[LEVELS[level]]
        unit = 1 if level == "low" else self.vqvae.hops[1] // self.vqvae.hops[0]
        share = self.settings[f"{level}_overlap"] if overlap is None else overlap
        hop = max(unit, round((1 - share) * size / unit) * unit)
        starts = window_starts(self._total(level, request.samples), size, hop, unit)
        if not prior.config.has_null:
            sampling = replace(sampling, guidance=1.0, negative_guidance=0.0)
        sampler = TokenSampler(prior.transformer, len(request.seeds), sampling, self.compiled)

        def sample(start: int, prefix: Tensor | None) -> Tensor:
            condition, null, negative = self._conditions(level, request, coarse, start, sampling)
            generators = self._generators(request.seeds, level, start)
            return sampler.generate(condition, null, generators, prefix, progress=progress, negative=negative)

        done = store.load(level)
        done = None if done is None else done.to(self.low.device)
        return sample_windows(starts, size, sample, done, lambda tokens: store.save(level, tokens))

    def _conditions(
        self, level: str, request: Request, coarse: Tensor | None, start: int, sampling: TokenSampling
    ) -> tuple[Condition, Condition | None, Condition | None]:
        """Conditions of one window: with the images, without images if guided, and with the negative ones if given."""
        offset, device = start * self.vqvae.hops[LEVELS[level]], self.low.device
        frames = window_rows(request.frames, offset, self.window, self.fps, self.sample_rate)
        frames = request.frames if level == "up" and self.settings["mean_over_clip"] else frames

        def condition(rows: Tensor, keep: Tensor | None = None) -> Condition:
            return self._condition(level, rows.to(device), request, coarse, offset, keep)

        none = torch.zeros(len(request.seeds), dtype=torch.bool, device=device)
        null = condition(frames, none) if len(sampling.branch_scales) > 1 else None
        unwanted = request.negative if sampling.negative_guidance > 0 else None
        return condition(frames), null, None if unwanted is None else condition(unwanted)

    def _condition(
        self, level: str, frames: Tensor, request: Request, coarse: Tensor | None, offset: int, keep: Tensor | None
    ) -> Condition:
        """Condition of one window, which begins at the sample `offset`, given image vectors (B, F, V)."""
        if level == "low":
            total = max(self._padded(request.samples), least_samples(self.low.config.min_seconds, self.sample_rate))
            times = torch.tensor([[total, offset, self.window]], device=frames.device).expand(len(frames), 3)
            return self.low.conditioner(frames, times, keep)
        assert self.up is not None and coarse is not None
        first = offset // self.vqvae.hops[1]
        window = coarse[:, first : first + self.window // self.vqvae.hops[1]]
        return self.up.conditioner(frames.mean(dim=1), window, keep)

    def _generators(self, seeds: Sequence[int], level: str, start: int) -> list[torch.Generator]:
        """One generator for each clip and window, so that a continued run draws what an unbroken one does."""
        device = self.low.device
        return [torch.Generator(device).manual_seed(window_seed(seed, level, start)) for seed in seeds]

    def check(self, request: Request) -> None:
        """Raise a ValueError for a request that the priors cannot fulfil, before anything is sampled."""
        width = request.frames.shape[-1]
        if width != self.image_width:
            raise ValueError(f"image vectors of width {width}, the model was trained with {self.image_width}: "
                             f"use its CLIP, {self.settings['clip']}")  # fmt: skip
        if request.negative is not None and not self.low.config.has_null:
            raise ValueError("what the sound should not contain cannot be given: "
                             "the Low prior was trained with guidance_dropout 0")  # fmt: skip
        self.check_length(request.samples)

    def check_length(self, samples: int) -> None:
        """Raise a ValueError for a length that the time tables of the Low prior do not cover."""
        longest = self.low.config.max_seconds
        if samples < 1 or self._padded(samples) >= longest * self.sample_rate:
            seconds = samples / self.sample_rate
            raise ValueError(f"a sound of {seconds:g} s: the model generates less than {longest:g} s")


def window_seed(seed: int, level: str, start: int) -> int:
    """Seed of the draws of one window of one clip."""
    return (seed * 1_000_003 + start * 2 + LEVELS[level]) % 2**63


def window_rows(frames: Tensor, offset: int, window: int, fps: float, sample_rate: int) -> Tensor:
    """Image vectors (B, F', V) of a window; the last one is repeated past the end of the video."""
    if frames.shape[1] == 1:
        return frames
    rows = window_frames(offset, window, fps, sample_rate)
    index = torch.arange(rows.start, rows.stop, device=frames.device).clamp(max=frames.shape[1] - 1)
    return frames[:, index]
