"""Levels, losses and sampling of distilled models, against closed forms and diffusers' own schedulers."""

import diffusers
import pytest
import torch
from torch import Tensor

from sonolume.modules import distillation
from sonolume.modules.distillation import NoiseForm
from sonolume.modules.sampling import begin, generators

SCHEDULE = diffusers.DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear").alphas_cumprod  # type: ignore[arg-type]
FORMS = {name: NoiseForm(name, SCHEDULE) for name in ("flow", "epsilon", "v_prediction")}


def random(seed: int, count: int = 3) -> Tensor:
    return torch.randn(count, 2, 4, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", distillation.STEPS)
def test_levels_are_those_of_the_schedulers(steps: int) -> None:
    lcm = diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    lcm.set_timesteps(steps)
    times = torch.tensor(FORMS["epsilon"].times(steps))
    assert FORMS["epsilon"].timesteps(times).tolist() == lcm.timesteps.tolist()
    flow = diffusers.FlowMatchLCMScheduler()
    begin(flow, steps, 1.0, torch.device("cpu"))
    assert FORMS["flow"].timesteps(torch.tensor(FORMS["flow"].times(steps))).tolist() == flow.timesteps.tolist()


@pytest.mark.parametrize("name", FORMS)
def test_predictions_and_clean_latents_are_inverse(name: str) -> None:
    form, clean, noise, times = FORMS[name], random(0), random(1), torch.tensor([0.2, 0.6, 0.9])
    x = form.noisy(clean, noise, times)
    prediction = form.prediction(x, clean, times)
    torch.testing.assert_close(form.clean(x, prediction, times), clean, rtol=1e-4, atol=1e-4)
    alpha, sigma = form.coefficients(times)
    expected = {"flow": noise - clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean}[name]
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_the_exact_solution_of_a_gaussian_has_no_endpoint_loss(name: str) -> None:
    """Data N(0, s^2): a sampling path keeps its place in units of the deviation, so its end is x_t s / deviation_t."""
    form, spread, noise, times = FORMS[name], 0.7, random(2), torch.tensor([0.3, 0.7, 0.95])
    alpha, sigma = form.coefficients(times)
    deviation = (alpha**2 * spread**2 + sigma**2).sqrt()
    x, end = noise * deviation, noise * spread
    exact = form.prediction(x, x * spread / deviation, times)
    assert distillation.endpoint_loss(form, x, times, exact, end) < 1e-10
    assert distillation.endpoint_loss(form, x, times, exact + 0.1, end) > 1e-4


def test_the_matching_gradient_is_the_difference_of_the_scores() -> None:
    clean, teacher, fake = random(3).requires_grad_(), random(4), random(5)
    distillation.matching_loss(clean, teacher, fake).backward()
    distance = (clean - teacher).abs().mean(dim=(1, 2, 3), keepdim=True).detach()
    torch.testing.assert_close(clean.grad, (fake - teacher) / (distance + distillation.EPSILON) / clean.numel())
    clean.grad = None
    distillation.matching_loss(clean, teacher, teacher).backward()
    assert clean.grad is not None and not clean.grad.any()


@pytest.mark.parametrize("steps", [1, 4])
def test_samples_are_those_of_the_scheduler_bit_for_bit(steps: int) -> None:
    network = lambda x, t: torch.tanh(x) * (0.5 + t.view(-1, 1, 1, 1) / 2000)  # noqa: E731
    form, shape = FORMS["flow"], (1, 2, 4, 5)
    own = generators([7, 8])
    noises = [torch.cat([torch.randn(shape, generator=one) for one in own]) for _ in range(steps)]
    estimate = lambda x, times: form.clean(x, network(x, form.timesteps(times)), times)  # noqa: E731
    ours = distillation.sample(estimate, form, noises, form.times(steps))

    scheduler, theirs = diffusers.FlowMatchLCMScheduler(), generators([7, 8])
    begin(scheduler, steps, 1.0, torch.device("cpu"))
    x = torch.cat([torch.randn(shape, generator=one) for one in theirs])
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x, generator=theirs).prev_sample  # type: ignore[arg-type]
    assert torch.equal(ours, x)


def test_gradients_pass_through_the_last_call_only() -> None:
    weight = torch.tensor(0.5, requires_grad=True)
    form, calls = FORMS["flow"], []

    def estimate(x: Tensor, times: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return weight * x

    distillation.sample(estimate, form, [random(seed) for seed in range(3)], form.times(4)[:3]).sum().backward()
    assert calls == [False, False, True] and weight.grad is not None
    with torch.no_grad():
        distillation.sample(estimate, form, [random(0)], [1.0])
    assert calls[-1] is False


def test_variation_is_that_along_time() -> None:
    ramp = torch.arange(5.0).expand(1, 2, 4, 5)
    assert distillation.variation(2 * ramp) == 2 and distillation.variation(ramp.transpose(2, 3)[..., :1, :]) == 0
