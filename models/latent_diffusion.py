"""Diffusion training: noised input, regression target and loss of a step, shared by every recipe that has one.

B items, z latent channels, h x w latent size. Objectives: "epsilon", "v_prediction" (Salimans & Ho 2022) and "flow"
(rectified flow, Liu et al. 2022: x_t = (1 - t) x_0 + t noise, target noise - x_0, t in 0..1, given to the network as
1000 t).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from sonolume.config.tta.audioldm import NoiseSchedulerConfig
from sonolume.models.training import Draw, RecipeTask
from sonolume.modules.sampling import objective_of
from sonolume.modules.unet import normalise


class DiffusionTarget(NamedTuple):
    noisy: Tensor  # (B, z, h, w) input of the network
    target: Tensor  # (B, z, h, w) value that it must predict
    timesteps: Tensor  # (B,) as the network takes them
    weight: Tensor  # (B,) weight of each item's squared error


@dataclass(frozen=True)
class DiffusionObjective:
    """Prediction target of the network, and the noise times it is trained at."""

    prediction_type: str  # epsilon, v_prediction or flow
    alphas_cumprod: Tensor  # (steps,) of the noise schedule; not used by flow
    timestep_sampling: str = "uniform"  # uniform, or logit_normal (Esser et al. 2024), which favours the middle
    min_snr_gamma: float = 0.0  # weight by min(snr, gamma) (Hang et al. 2023); 0 = all times equally. Not for flow

    @classmethod
    def from_config(cls, noise: NoiseSchedulerConfig) -> Self:
        """Build the objective from the section `noise_scheduler` of a config."""
        schedule: Any = str(noise.beta_schedule)  # diffusers' name
        scheduler = DDPMScheduler(noise.num_train_timesteps, noise.beta_start, noise.beta_end, schedule)
        kind, sampling = str(noise.prediction_type), str(noise.timestep_sampling)
        return cls(kind, scheduler.alphas_cumprod, sampling, noise.min_snr_gamma)

    @classmethod
    def of_scheduler(cls, scheduler: Any) -> Self:
        """Return the objective that the U-Net of a pipeline with this scheduler was trained for."""
        kind = objective_of(scheduler)
        return cls(kind, torch.ones(1) if kind == "flow" else scheduler.alphas_cumprod)

    def draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw noise times in 0..1, (count,)."""
        if self.timestep_sampling == "logit_normal":
            return torch.sigmoid(torch.randn(count, generator=generator))
        return torch.rand(count, generator=generator)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> DiffusionTarget:
        """Noise the latents (B, z, h, w) at `times` (B,) in 0..1, and compute what the network must predict."""
        if self.prediction_type == "flow":
            t = times.view(-1, 1, 1, 1).to(latents)
            return DiffusionTarget((1 - t) * latents + t * noise, noise - latents, 1000 * times, torch.ones_like(times))
        steps, is_epsilon = len(self.alphas_cumprod), self.prediction_type == "epsilon"
        timesteps = (times * steps).long().clamp(max=steps - 1)
        signal = self.alphas_cumprod.to(latents)[timesteps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        weight = torch.ones_like(times)
        if self.min_snr_gamma > 0:
            snr = (signal / (1 - signal)).flatten()
            weight = snr.clamp(max=self.min_snr_gamma) / (snr if is_epsilon else snr + 1)
        return DiffusionTarget(noisy, noise if is_epsilon else velocity, timesteps, weight)


class LatentTask(RecipeTask):
    """Base of the tasks on latents of `frozen["vae"]`, whose config holds their normalisation.

    A run keeps the normalisation that it began with in its checkpoints, whatever clips are added later.
    """

    has_latents = False  # the normalisation of a checkpoint was loaded

    def measure_latents(self, moments: np.ndarray) -> None:
        """Set the normalisation from the moments (N, 2z, h, w) of the training data."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        if not self.has_latents:
            self.measure_latents(self.trainer.datamodule.data.train.moments)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["latents"] = latents_of(self.frozen["vae"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "latents" in checkpoint:  # older checkpoints have none
            self.frozen["vae"].register_to_config(**checkpoint["latents"])
            self.has_latents = True


def latents_of(vae: Any) -> dict[str, Any]:
    """The normalisation of latents in the config of a VAE."""
    return {name: vae.config.get(name) for name in ("latents_mean", "latents_std", "scaling_factor")}


def draw_target(
    moments: Tensor, vae: Any, objective: DiffusionObjective, draws: Callable[[Draw], Tensor]
) -> DiffusionTarget:
    """Sample latents from their cached moments, noise them, and return what the network must predict.

    The moments (B, 2z, h, w) are mean and log-variance; the config of `vae` holds the latents' normalisation, and
    `draws` are the random numbers of this batch, from `training_draws` or `validation_draws`.
    """

    def normal(count: int, random: torch.Generator) -> Tensor:
        return torch.randn(count, *mean.shape[1:], generator=random)

    mean, logvar = moments.chunk(2, dim=1)                                     # (B, z, h, w)
    sample, noise = draws(normal).to(mean), draws(normal).to(mean)             # (B, z, h, w)
    times = draws(objective.draw_times).to(mean)                               # (B,)
    latents = normalise(mean + (0.5 * logvar).exp() * sample, vae)             # (B, z, h, w)
    return objective.target(latents, noise, times)


def diffusion_loss(prediction: Tensor, target: DiffusionTarget) -> Tensor:
    """Weighted mean squared error, a scalar, in float32."""
    error = F.mse_loss(prediction.float(), target.target.float(), reduction="none").mean(dim=(1, 2, 3))  # (B,)
    return (error * target.weight.to(error)).mean()
