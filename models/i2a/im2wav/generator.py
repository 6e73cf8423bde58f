"""Generated and reconstructed sounds of an evaluation, in folders that an interrupted run continues.

B sounds, F frames, V width of the image vectors, n samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sonolume.config.i2a.im2wav import EvaluationOptions
from sonolume.models import runtime
from sonolume.models.evaluation.samples import Files, generate_files, weights_version
from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.models.i2a.im2wav.inference import sample
from sonolume.models.i2a.im2wav.pipeline import LEVELS, Im2WavPipeline, Request
from sonolume.utils import audio

Encode = Callable[[str], Tensor]  # Uid -> image vectors (F, V)


@dataclass(frozen=True)
class Generator:
    """Generates one sound per Uid into folders below the output folder, which an interrupted run resumes."""

    pipe: Im2WavPipeline
    encoder: ImageEncoder
    where: str  # folder or hub id of the model
    options: EvaluationOptions
    level: str  # "up", or "low" for drafts

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that decides a sound besides its image and seed."""
        names = ("temperature", "top_k", "top_p", "int8", "compile")
        scale = self.options.guidance_scale
        return {
            "model": weights_version(self.where),
            "clip": self.encoder.content_hash,
            "guidance_scale": self.pipe.guidance_scale if scale is None else scale,
            **{name: getattr(self.options, name) for name in names},
            "versions": runtime.versions(),
        }

    def facts(self) -> dict[str, Any]:
        """The settings, for the reader of a report."""
        shown = {name: value for name, value in self.settings.items() if name not in ("model", "versions")}
        weights = self.settings["model"]
        return {"model": self.where, "weights": weights, "level": self.level, **shown, "seed": self.options.seed}

    def generate(
        self, name: str, inputs: Mapping[str, str], encode: Encode, samples: int, source: Mapping[str, Any],
        level: str | None = None, guidance_scale: float | None = None,
    ) -> dict[str, Path]:  # fmt: skip
        """Generate sounds of `samples` samples.

        Args:
            name: folder of the sounds.
            inputs: Uid -> description of its image.
            encode: from a Uid to its image vectors; of equal count for all.
            source: where the images come from.
            level, guidance_scale: other than the evaluation's.
        """
        level = level or self.level
        changed = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
        options = replace(self.options, **changed)
        settings = self.settings | changed | {"level": level, "samples": samples} | dict(source)

        def waves(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
            frames = torch.stack([encode(uid) for uid in uids])  # (B, F, V)
            made = sample(self.pipe, Request(frames, seeds, samples), options, level)  # (B, n)
            return list(made.numpy())

        folder, rate = options.output_dir / name, self.pipe.sample_rate
        more: dict[str, Any] = {"batch_size": options.batch_size, "seed": options.seed, "title": name}
        return generate_files(folder, inputs, settings, waves, rate, **more)

    @torch.no_grad()
    def reconstruct(self, name: str, sounds: Files, source: Mapping[str, Any]) -> dict[str, Path]:
        """Reconstruct real sounds from the tokens of the level by the VQ-VAE: the upper bound of the priors."""
        vqvae, rate = self.pipe.vqvae, self.pipe.sample_rate
        level = self.level
        settings = {"model": self.settings["model"], "level": level, "versions": runtime.versions(), **source}

        def waves(uids: list[str], _: list[int]) -> list[np.ndarray]:
            return [reconstruct(vqvae, audio.load(sounds[uid], rate), LEVELS[level]).numpy() for uid in uids]

        folder, inputs = self.options.output_dir / name, {uid: path.name for uid, path in sounds.items()}
        return generate_files(folder, inputs, settings, waves, rate, title=name)


@torch.no_grad()
def reconstruct(vqvae: Any, wave: np.ndarray, level: int) -> Tensor:
    """Encode a wave (n,) to the tokens of a level and decode them: (n,) on the CPU."""
    padding = -len(wave) % vqvae.hops[1]
    padded = torch.from_numpy(np.pad(wave, (0, padding))).to(vqvae.device)[None]  # (1, n)
    return vqvae.decode(vqvae.encode(padded, level), level)[0, : len(wave)].float().cpu()
