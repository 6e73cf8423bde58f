"""Training objectives of diffusion models: noised input, regression target and loss weight.

B items, latents (B, C, H, W). Objectives: "epsilon", "v_prediction" (Salimans & Ho 2022) and "flow" (rectified flow,
Liu et al. 2022: x_t = (1 - t) x_0 + t noise, target noise - x_0, t in 0..1, given to the network as 1000 t).
"""

from typing import NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

OBJECTIVES = ("epsilon", "v_prediction", "flow")


class DiffusionTarget(NamedTuple):
    noisy: Tensor  # (B, C, H, W) input of the network
    target: Tensor  # (B, C, H, W) value that it must predict
    timesteps: Tensor  # (B,) as the network takes them
    weight: Tensor  # (B,) weight of each item's squared error


def alphas_cumprod(schedule: str, start: float, end: float, steps: int) -> Tensor:
    """Cumulative product of alphas, (steps,) float32, of diffusers' noise schedule of that name."""
    return DDPMScheduler(steps, start, end, schedule).alphas_cumprod  # type: ignore[arg-type]  # a Literal of its names


def draw_times(batch: int, sampling: str, generator: torch.Generator | None = None) -> Tensor:
    """Noise times in 0..1, (B,): "uniform", or "logit_normal" (Esser et al. 2024), which favours the middle."""
    if sampling == "logit_normal":
        return torch.sigmoid(torch.randn(batch, generator=generator))
    return torch.rand(batch, generator=generator)


def make_target(
    latents: Tensor, noise: Tensor, times: Tensor, objective: str, schedule: Tensor, min_snr_gamma: float = 0.0
) -> DiffusionTarget:
    """Noise the latents at `times` (B,) in 0..1 and compute the target of the objective.

    Args:
        schedule: `alphas_cumprod` of "epsilon" and "v_prediction"; its length is the number of steps.
        min_snr_gamma: weight by min(snr, gamma) (Hang et al. 2023); 0 weights all times equally. Not for "flow".
    """
    if objective == "flow":
        t = times.view(-1, 1, 1, 1).to(latents)
        return DiffusionTarget((1 - t) * latents + t * noise, noise - latents, 1000 * times, torch.ones_like(times))
    steps = len(schedule)
    timesteps = (times * steps).long().clamp(max=steps - 1)
    signal = schedule.to(latents)[timesteps].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
    weight = torch.ones_like(times)
    if min_snr_gamma > 0:
        snr = (signal / (1 - signal)).flatten()
        weight = snr.clamp(max=min_snr_gamma) / (snr if objective == "epsilon" else snr + 1)
    return DiffusionTarget(noisy, noise if objective == "epsilon" else velocity, timesteps, weight)


def diffusion_loss(prediction: Tensor, target: DiffusionTarget) -> Tensor:
    """Weighted mean squared error, a scalar, in float32."""
    error = F.mse_loss(prediction.float(), target.target.float(), reduction="none").mean(dim=(1, 2, 3))  # (B,)
    return (error * target.weight.to(error)).mean()
