"""One training step of a diffusion model on cached latents, shared by every recipe that has one.

B items, z latent channels, h x w latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sonolume.config.tta.audioldm import NoiseSchedulerConfig
from sonolume.models.training import Draw
from sonolume.modules.diffusion import DiffusionTarget, alphas_cumprod, draw_times, make_target
from sonolume.modules.unet import normalise


@dataclass(frozen=True)
class DiffusionObjective:
    """Prediction target of the network, and the noise times it is trained at."""

    prediction_type: str
    """epsilon, v_prediction or flow"""
    alphas_cumprod: Tensor
    """(steps,) of the noise schedule; not used by flow"""
    timestep_sampling: str = "uniform"
    """uniform or logit_normal"""
    min_snr_gamma: float = 0.0
    """largest signal-to-noise ratio that weights the loss (Hang et al. 2023); 0 = no weighting"""

    @classmethod
    def from_config(cls, noise: NoiseSchedulerConfig) -> Self:
        """Build the objective from the section `noise_scheduler` of a config."""
        schedule = alphas_cumprod(str(noise.beta_schedule), noise.beta_start, noise.beta_end, noise.num_train_timesteps)
        return cls(str(noise.prediction_type), schedule, str(noise.timestep_sampling), noise.min_snr_gamma)


def draw_target(
    moments: Tensor, vae: Any, objective: DiffusionObjective, draws: Callable[[Draw], Tensor]
) -> DiffusionTarget:
    """Sample latents from their cached moments, noise them, and return what the network must predict.

    Args:
        moments: (B, 2z, h, w) mean and log-variance of the latents.
        vae: its config holds the latents' normalisation.
        draws: random numbers of this batch, from `training_draws` or `validation_draws`.
    """

    def normal(count: int, random: torch.Generator) -> Tensor:
        return torch.randn(count, *mean.shape[1:], generator=random)

    def time(count: int, random: torch.Generator) -> Tensor:
        return draw_times(count, objective.timestep_sampling, random)

    mean, logvar = moments.chunk(2, dim=1)                                     # (B, z, h, w)
    sample, noise = draws(normal).to(mean), draws(normal).to(mean)             # (B, z, h, w)
    times = draws(time).to(mean)                                               # (B,)
    latents = normalise(mean + (0.5 * logvar).exp() * sample, vae)             # (B, z, h, w)
    return make_target(
        latents, noise, times, objective.prediction_type, objective.alphas_cumprod, objective.min_snr_gamma
    )
