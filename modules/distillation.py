"""Distillation of a guided diffusion model into one that needs 1 to 8 network calls: levels, losses and sampling.

Every network predicts something that gives an estimate of the clean latents x0, from x_t = alpha x0 + sigma noise:
rectified flow (alpha = 1 - t, sigma = t) predicts noise - x0; "epsilon" the noise; "v_prediction" alpha noise - sigma
x0. Sampling is multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1), which diffusers'
`FlowMatchLCMScheduler` and `LCMScheduler` do: estimate x0, add fresh noise of the next level, and so on.

B items, z latent channels, h x w latent size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = (1, 2, 4, 8)  # network calls for which a model can be distilled
LCM_ORIGINAL_STEPS = 50  # timesteps from which `LCMScheduler` takes those of a few steps
EPSILON = 1e-3  # keeps the normalisation of the matching gradient finite

Predict = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, z, h, w), times (B,) in 0..1) -> estimate of x0 (B, z, h, w)


@dataclass(frozen=True)
class NoiseForm:
    """Relation between clean latents, noise and a network's prediction at a noise time.

    Times are in 0..1, 1 is noise. Those of "epsilon" and "v_prediction" are timesteps of the noise schedule, divided by
    their number.
    """

    objective: str  # "flow", "epsilon" or "v_prediction"
    alphas_cumprod: Tensor  # (steps,) of the noise schedule; not used by flow

    def times(self, steps: int) -> list[float]:
        """Noise times of the network calls of a sampler with `steps` steps, the first one is pure noise."""
        if self.objective == "flow":
            return [1 - number / steps for number in range(steps)]
        total = len(self.alphas_cumprod)
        grid = [number * (total // LCM_ORIGINAL_STEPS) - 1 for number in range(1, LCM_ORIGINAL_STEPS + 1)][::-1]
        return [grid[number * LCM_ORIGINAL_STEPS // steps] / total for number in range(steps)]

    def timesteps(self, times: Tensor) -> Tensor:
        """Times (B,) as the network takes them."""
        return 1000 * times if self.objective == "flow" else self._index(times)

    def coefficients(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma (B, 1, 1, 1) of times (B,)."""
        if self.objective == "flow":
            sigma = times.view(-1, 1, 1, 1)
            return 1 - sigma, sigma
        signal = self.alphas_cumprod.to(times)[self._index(times)].view(-1, 1, 1, 1)
        return signal.sqrt(), (1 - signal).sqrt()

    def noisy(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t (B, z, h, w) of clean latents and noise (B, z, h, w)."""
        alpha, sigma = self.coefficients(times)
        return alpha * clean + sigma * noise

    def clean(self, x: Tensor, prediction: Tensor, times: Tensor) -> Tensor:
        """Estimate of x0 (B, z, h, w) that a prediction at x_t (B, z, h, w) amounts to."""
        alpha, sigma = self.coefficients(times)
        if self.objective == "flow":
            return x - sigma * prediction
        if self.objective == "epsilon":
            return (x - sigma * prediction) / alpha
        return alpha * x - sigma * prediction

    def prediction(self, x: Tensor, clean: Tensor, times: Tensor) -> Tensor:
        """The prediction at x_t (B, z, h, w) that amounts to the estimate `clean`; inverse of `clean`."""
        alpha, sigma = self.coefficients(times)
        if self.objective == "flow":
            return (x - clean) / sigma
        if self.objective == "epsilon":
            return (x - alpha * clean) / sigma
        return (alpha * x - clean) / sigma

    def _index(self, times: Tensor) -> Tensor:
        steps = len(self.alphas_cumprod)
        return (times * steps).round().long().clamp(0, steps - 1)


def endpoint_loss(form: NoiseForm, x: Tensor, times: Tensor, prediction: Tensor, end: Tensor) -> Tensor:
    """Squared error of a prediction at a point x_t (B, z, h, w) of a sampling path that ends at `end`, a scalar.

    In the form that weighs all times alike: x0 for flow, as Stable Audio 3's warm-up (`stable-audio-tools`), and the
    prediction itself for the others, whose x0 has the factor 1 / alpha: 15 at the start of Stable Diffusion's schedule.
    """
    if form.objective == "flow":
        return F.mse_loss(form.clean(x, prediction, times), end)
    return F.mse_loss(prediction, form.prediction(x, end, times))


def matching_loss(clean: Tensor, teacher: Tensor, fake: Tensor) -> Tensor:
    """Loss whose gradient moves x0 (B, z, h, w) of the student against the difference of two scores, a scalar.

    Distribution matching (Yin et al. 2024, arXiv 2311.18828, equation 7): `teacher` and `fake` are the estimates of x0
    by the teacher and by a network that follows the student's own samples; the gradient is (fake - teacher), divided by
    the mean distance of the teacher's estimate from x0.
    """
    with torch.no_grad():
        distance = (clean - teacher).abs().mean(dim=(1, 2, 3), keepdim=True)                   # (B, 1, 1, 1)
        target = clean - (fake - teacher) / (distance + EPSILON)
    return 0.5 * F.mse_loss(clean, target)


def variation(clean: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in time (the last axis) of latents (B, z, h, w), a scalar."""
    return (clean[..., 1:] - clean[..., :-1]).abs().mean()


def sample(predict: Predict, form: NoiseForm, noises: Sequence[Tensor], times: Sequence[float]) -> Tensor:
    """Sample clean latents (B, z, h, w) by multistep consistency sampling; gradients pass through the last call only.

    Args:
        noises: one (B, z, h, w) for each of the `times`; the first one is the initial noise.
    """
    x = clean = noises[0]
    for number, time in enumerate(times):
        with torch.set_grad_enabled(torch.is_grad_enabled() and number + 1 == len(times)):
            clean = predict(x, x.new_full((len(x),), time))
        if number + 1 < len(times):
            x = form.noisy(clean, noises[number + 1], x.new_full((len(x),), times[number + 1]))
    return clean
