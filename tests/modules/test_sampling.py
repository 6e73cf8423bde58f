from types import SimpleNamespace

import pytest
import torch

from sonolume.config.tta.audioldm import NoiseSchedulerConfig
from sonolume.models.latent_diffusion import DiffusionObjective
from sonolume.models.tta.audioldm.components import noise_settings
from sonolume.modules.sampling import (
    PRESETS,
    SCHEDULERS,
    Guidance,
    make_scheduler,
    objective_of,
    preset,
    scheduler,
    step_arguments,
)

NOISE = noise_settings(NoiseSchedulerConfig())
NAMED = [(objective, name) for objective, presets in PRESETS.items() for name in presets]
FITTING = [(o, n) for o in PRESETS for n in SCHEDULERS if n.startswith("flow") == (o == "flow")]
SCALE = 2.0  # deviation of the made-up data below


@pytest.mark.parametrize("steps", [4, 25, 50, 200])
def test_the_reference_is_the_official_sampler(goldens: SimpleNamespace, steps: int):
    golden = goldens.golden("pndm")
    pndm, default_steps = preset("reference", "epsilon", NOISE)
    assert default_steps == 200
    pndm.set_timesteps(steps)
    assert pndm.timesteps.tolist() == golden[f"timesteps_{steps}"].tolist()
    x = goldens.input_for("pndm.x", (1, 4, 2, 3))
    for t in pndm.timesteps:
        x = pndm.step(0.9 * x + 0.001 * float(t), t, x).prev_sample
    torch.testing.assert_close(x, golden[f"final_{steps}"], rtol=1e-5, atol=0)


def start() -> torch.Tensor:
    return torch.randn(4, 1000, 1, generator=torch.Generator().manual_seed(0))


def denoise(sampler, objective: str, steps: int, x: torch.Tensor) -> torch.Tensor:
    """Sample with the exact answer of a network trained on numbers drawn from N(0, SCALE^2)."""
    kept = DiffusionObjective.from_config(NoiseSchedulerConfig()).alphas_cumprod
    sampler.set_timesteps(steps)
    x = x * getattr(sampler, "init_noise_sigma", 1.0)
    for t in sampler.timesteps:
        given = sampler.scale_model_input(x, t) if hasattr(sampler, "scale_model_input") else x
        if objective == "flow":
            s = float(t) / 1000
            noise_share, data_share = s**2, (1 - s) ** 2 * SCALE**2
            prediction = given * (s - (1 - s) * SCALE**2) / (noise_share + data_share)
        else:
            a = torch.lerp(kept[int(t)], kept[min(int(t) + 1, 999)], float(t) - int(t))
            total = a * SCALE**2 + 1 - a
            epsilon, clean = given * (1 - a).sqrt() / total, given * a.sqrt() * SCALE**2 / total
            prediction = epsilon if objective == "epsilon" else a.sqrt() * epsilon - (1 - a).sqrt() * clean
        x = sampler.step(prediction, t, x).prev_sample
    return x


@pytest.mark.parametrize(("objective", "name"), NAMED)
def test_every_preset_samples_what_its_objective_means(objective: str, name: str):
    sampler, steps = preset(name, objective, NOISE)
    samples = denoise(sampler, objective, min(steps, 50), start())
    assert samples.std().item() == pytest.approx(SCALE, rel=0.1)
    assert objective_of(sampler) == objective


@pytest.mark.parametrize(("objective", "name"), FITTING)
def test_every_scheduler_samples_what_its_objective_means(objective: str, name: str):
    sampler = scheduler(name, objective, NOISE)
    samples = denoise(sampler, objective, 50, start())
    assert samples.std().item() == pytest.approx(SCALE, rel=0.1)
    assert objective_of(sampler) == objective


@pytest.mark.parametrize(("objective", "name"), FITTING)
def test_the_training_noise_reaches_the_sampler(objective: str, name: str):
    if objective == "flow":
        return
    noise = NOISE | {"beta_end": 0.02, "beta_schedule": "linear"}
    config = scheduler(name, objective, noise).config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.02, "linear")


@pytest.mark.parametrize(
    ("make", "name", "objective", "message"),
    [
        (preset, "reference", "v_prediction", "no preset 'reference' for a network that predicts v_prediction: balan"),
        (preset, "quick", "flow", "reference, balanced, fast"),
        (scheduler, "ddim", "flow", "no scheduler 'ddim' for a network that predicts flow: flow-euler, flow-unipc"),
        (scheduler, "flow-euler", "epsilon", "ddim, pndm"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(make, name: str, objective: str, message: str):
    with pytest.raises(ValueError, match=message):
        make(name, objective, NOISE)


def test_scale():
    unconditional, conditional = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    assert Guidance(3.0).combine(unconditional, conditional).eq(3).all()
    assert Guidance(1.0).combine(unconditional, conditional).eq(1).all()
    assert not Guidance(1.0).is_used and not Guidance(1.0).is_on(0.5) and Guidance(0.0).is_on(0.5)


def test_rescale_brings_the_deviation_back():
    """Each sound by its own deviation, equations 15 and 16."""
    unconditional, conditional = torch.randn(2, 3, 4, 5, 6)
    conditional[1] *= 5
    plain = Guidance(4.0).combine(unconditional, conditional)
    whole = Guidance(4.0, rescale=1.0).combine(unconditional, conditional)
    axes = (1, 2, 3)
    torch.testing.assert_close(whole.std(axes), conditional.std(axes))
    assert (plain.std(axes) > 1.5 * whole.std(axes)).all()
    part = Guidance(4.0, rescale=0.7).combine(unconditional, conditional)
    torch.testing.assert_close(part, 0.7 * whole + 0.3 * plain)


def test_interval_includes_its_ends():
    guidance = Guidance(4.0, interval=(0.2, 0.8))
    assert [guidance.is_on(time) for time in (0.0, 0.19, 0.2, 0.5, 0.8, 0.81, 1.0)] == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("rescale", [-0.1, 1.1, float("nan")])
def test_a_wrong_rescale_is_refused(rescale: float):
    with pytest.raises(ValueError, match="guidance_rescale must be from 0 to 1"):
        Guidance(4.0, rescale)


@pytest.mark.parametrize("interval", [(0.8, 0.2), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.0, float("nan"))])
def test_a_wrong_interval_is_refused(interval: tuple[float, float]):
    with pytest.raises(ValueError, match="guidance_interval must be LOW HIGH with"):
        Guidance(4.0, 0.0, interval)


def test_a_step_gets_the_generator_and_eta_that_its_scheduler_takes():
    generator = torch.Generator()
    names = {"DDPM": {"generator"}, "EulerAncestralDiscrete": {"generator"}, "DDIM": {"generator", "eta"}}
    names["PNDM"] = set()
    for name, wanted in names.items():
        assert set(step_arguments(make_scheduler(f"{name}Scheduler", {}, "epsilon", NOISE), generator)) == wanted
    ddim, unipc = (scheduler(name, "epsilon", NOISE) for name in ("ddim", "unipc"))
    assert step_arguments(ddim, generator, 0.5) == {"generator": generator, "eta": 0.5}
    with pytest.raises(ValueError, match="UniPCMultistepScheduler has no eta"):
        step_arguments(unipc, generator, 0.5)
    with pytest.raises(ValueError, match="eta must be from 0 to 1, got -1"):
        step_arguments(ddim, generator, -1.0)
