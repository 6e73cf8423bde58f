from types import SimpleNamespace

import diffusers
import pytest
import torch

from sonolume.config.tta.audioldm import AudioLDMConfig, NoiseSchedulerConfig
from sonolume.models.convert.amphion import unet_weights
from sonolume.models.latent_diffusion import DiffusionObjective, diffusion_loss
from sonolume.models.tta.audioldm.components import build_unet

SCHEDULE = DiffusionObjective.from_config(NoiseSchedulerConfig()).alphas_cumprod  # scaled_linear, 1000 steps
CANCELLED = 1e-6  # gradients of one channel per norm group are rounding errors


def test_a_training_step_equals_the_official_one(goldens: SimpleNamespace):
    golden = goldens.golden("ldm_step_small")
    latents, noise = (goldens.input_for(f"ldm.{name}", (3, 4, 5, 39)) for name in ("latents", "noise"))
    goldens.assert_close(SCHEDULE, golden["alphas_cumprod"], 1e-7)
    times = (golden["t"] + 0.5) / 1000
    target = DiffusionObjective("epsilon", SCHEDULE).target(latents, noise, times)
    assert target.timesteps.equal(golden["t"])
    goldens.assert_close(target.noisy, golden["noisy"], 1e-6)

    unet = build_unet(AudioLDMConfig(model_channels=32, context_dim=24, use_checkpoint=True))
    unet.load_state_dict(unet_weights(goldens.weights_for("unet_small")))
    unet.train()
    prediction = unet(target.noisy, target.timesteps, goldens.input_for("ldm.ctx", (3, 6, 24))).sample
    goldens.assert_close(prediction, golden["pred"], 1e-5)
    loss = diffusion_loss(prediction, target)
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-6, atol=0)

    loss.backward()
    norms = {name: parameter.grad.norm().reshape(()) for name, parameter in unet.named_parameters()}
    official = {name: torch.tensor(norm) for name, norm in goldens.golden("ldm_step_small_grads").items()}
    wanted = unet_weights(official)
    assert len(wanted) == len(norms) == 626
    for name, norm in wanted.items():
        if norm > CANCELLED:
            torch.testing.assert_close(norms[name], norm, rtol=1e-4, atol=0, msg=name)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 3, 5, generator=generator), torch.randn(4, 2, 3, 5, generator=generator)


def test_noising_and_velocity_equal_diffusers(pair):
    latents, noise = pair
    times = torch.tensor([0.0, 0.25, 0.6, 0.9999])
    scheduler = diffusers.DDPMScheduler(1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    target = DiffusionObjective("v_prediction", SCHEDULE).target(latents, noise, times)
    assert target.noisy.equal(scheduler.add_noise(latents, noise, target.timesteps))
    assert target.target.equal(scheduler.get_velocity(latents, noise, target.timesteps))
    assert target.timesteps.tolist() == [0, 250, 600, 999]


def test_flow_goes_straight_from_latents_to_noise(pair):
    latents, noise = pair
    times = torch.tensor([0.0, 0.5, 0.75, 1.0])
    target = DiffusionObjective("flow", SCHEDULE).target(latents, noise, times)
    torch.testing.assert_close(target.noisy[0], latents[0])
    torch.testing.assert_close(target.noisy[3], noise[3])
    torch.testing.assert_close(target.noisy[1], (latents[1] + noise[1]) / 2)
    torch.testing.assert_close(target.noisy - times.view(-1, 1, 1, 1) * target.target, latents)
    assert target.timesteps.tolist() == [0, 500, 750, 1000]


@pytest.mark.parametrize("objective", ["epsilon", "v_prediction", "flow"])
def test_a_right_prediction_has_no_loss(pair, objective: str):
    target = DiffusionObjective(objective, SCHEDULE).target(*pair, torch.full((4,), 0.5))
    assert diffusion_loss(target.target, target) == 0
    assert diffusion_loss(target.target + 2, target) == pytest.approx(4)


def test_min_snr_weighs_down_what_is_easy(pair):
    """Weighted losses of epsilon and v agree where both mean the same error of x_0: min(snr, gamma) |x_0 error|^2."""
    times = torch.tensor([0.01, 0.3, 0.6, 0.9])
    snr = (SCHEDULE / (1 - SCHEDULE))[(times * 1000).long()]
    epsilon = DiffusionObjective("epsilon", SCHEDULE, min_snr_gamma=5.0).target(*pair, times)
    velocity = DiffusionObjective("v_prediction", SCHEDULE, min_snr_gamma=5.0).target(*pair, times)
    torch.testing.assert_close(epsilon.weight * snr, snr.clamp(max=5.0))
    torch.testing.assert_close(velocity.weight * (snr + 1), snr.clamp(max=5.0))
    assert DiffusionObjective("epsilon", SCHEDULE).target(*pair, times).weight.eq(1).all()


def test_the_loss_weighs_items(pair):
    target = DiffusionObjective("epsilon", SCHEDULE).target(*pair, torch.full((4,), 0.5))
    target = target._replace(weight=torch.tensor([1.0, 0, 0, 3]))
    error = torch.zeros_like(target.target)
    error[3] = 2
    assert diffusion_loss(target.target + error, target) == pytest.approx(3)


@pytest.mark.parametrize(("sampling", "middle"), [("uniform", 0.5), ("logit_normal", 0.729)])
def test_times(sampling: str, middle: float):
    objective = DiffusionObjective("flow", SCHEDULE, sampling)
    times = objective.draw_times(20000, torch.Generator().manual_seed(0))
    assert times.min() >= 0 and times.max() <= 1
    assert times.mean().item() == pytest.approx(0.5, abs=0.01)
    share = ((times > 0.25) & (times < 0.75)).float().mean().item()
    assert share == pytest.approx(middle, abs=0.015)
    assert times.equal(objective.draw_times(20000, torch.Generator().manual_seed(0)))
