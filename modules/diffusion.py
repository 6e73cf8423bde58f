"""Training objectives of diffusion: what is added, what is predicted, how it is weighted.

B items, latents (B, C, H, W). Objectives: "epsilon", "v_prediction" (Salimans & Ho 2022) and "flow" (rectified flow,
Liu et al. 2022: x_t = (1 - t) x_0 + t noise, target noise - x_0, t in 0..1, given to the network as 1000 t).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

OBJECTIVES = ("epsilon", "v_prediction", "flow")


class DiffusionTarget(NamedTuple):
    noisy: Tensor  # (B, C, H, W) input of the network
    target: Tensor  # (B, C, H, W) what it must predict
    timesteps: Tensor  # (B,) as the network takes them
    weight: Tensor  # (B,) of each item's squared error


def alphas_cumprod(schedule: str, start: float, end: float, steps: int) -> Tensor:
    """The noise schedule's cumulative product of alphas, (steps,), float32.

    Raises:
        ValueError: a schedule other than "linear", "scaled_linear" or "squaredcos_cap_v2" (which has no start and end).
    """
    if schedule == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    elif schedule == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float32)
    elif schedule == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021
        ratio = torch.arange(steps + 1, dtype=torch.float64) / steps
        kept = ((ratio + 0.008) / 1.008 * torch.pi / 2).cos().square()
        betas = (1 - kept[1:] / kept[:-1]).clamp(max=0.999).float()
    else:
        raise ValueError(f"noise schedule {schedule!r} is not one of linear, scaled_linear, squaredcos_cap_v2")
    return torch.cumprod(1 - betas, dim=0)


def draw_times(batch: int, sampling: str, generator: torch.Generator | None = None) -> Tensor:
    """Times in 0..1, (B,): "uniform", or "logit_normal" (Esser et al. 2024), which favours the middle."""
    if sampling == "logit_normal":
        return torch.sigmoid(torch.randn(batch, generator=generator))
    return torch.rand(batch, generator=generator)


def make_target(
    latents: Tensor, noise: Tensor, times: Tensor, objective: str, schedule: Tensor, min_snr_gamma: float = 0.0
) -> DiffusionTarget:
    """Noise the latents at `times` (B,) in 0..1 and say what the network must predict.

    Args:
        schedule: `alphas_cumprod` of the discrete objectives; its length is the number of steps.
        min_snr_gamma: weight by min(snr, gamma) (Hang et al. 2023); 0 leaves every time alike. Not for "flow".
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
