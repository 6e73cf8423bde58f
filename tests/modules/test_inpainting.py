"""Sampling from a recording and keeping parts of it, on every scheduler, with networks that know the answer."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sonolume.modules import inpainting
from sonolume.modules.sampling import PRESETS, SCHEDULERS, make_scheduler

STEPS = 20
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
CASES = {
    f"{objective} {name}": (objective, *settings)
    for objective in PRESETS
    for name, settings in (
        [(key, value) for key, value in SCHEDULERS.items() if key.startswith("flow") == (objective == "flow")]
        + [(f"preset {key}", value[:2]) for key, value in PRESETS[objective].items()]
    )
}
every_scheduler = pytest.mark.parametrize("case", CASES)


class Run:
    """Denoises `clean` with a network that answers `answer`, or nothing; notes the times it was asked at."""

    def __init__(self, case: str, strength: float, clean: Tensor, noise: Tensor, answer: Tensor | None) -> None:
        self.objective, name, settings = CASES[case]
        self.scheduler = make_scheduler(name, settings, self.objective, NOISE)
        first = inpainting.begin(self.scheduler, STEPS, strength, clean.device)
        x = inpainting.add_noise(self.scheduler, clean, noise, first)
        self.times, self.strayed = [], 0.0
        for index, t in list(enumerate(self.scheduler.timesteps))[first:]:
            kept = inpainting.add_noise(self.scheduler, clean, noise, index)
            self.strayed = max(self.strayed, float((x - kept).abs().max() / kept.std()))
            predicted = torch.zeros_like(x) if answer is None else self.predict(x, t, answer)
            x = self.scheduler.step(predicted, t, x).prev_sample
            self.times.append(float(t))
        self.end = inpainting.add_noise(self.scheduler, clean, noise, len(self.scheduler.timesteps))
        self.result = x

    def predict(self, x: Tensor, t: Tensor, answer: Tensor) -> Tensor:
        x = self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x
        if self.objective == "flow":
            return (x - answer) / (t / 1000)
        share = self.scheduler.alphas_cumprod[t.round().long().clamp(max=999)]
        noise = (x - share.sqrt() * answer) / (1 - share).sqrt()
        return noise if self.objective == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * answer


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    clean, noise = torch.randn(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    return clean, noise


@every_scheduler
def test_sampling_can_start_anywhere(pair: tuple[Tensor, Tensor], case: str):
    """Under a network that knows the sound, the way is the sound plus ever less of the same noise."""
    clean, noise = pair
    begun = []
    for strength in (0.01, 0.3, 0.6, 1.0):
        run = Run(case, strength, clean, noise, answer=clean)
        assert (run.result - clean).abs().max() < 0.15  # some schedulers leave the noise of the first time
        assert run.strayed < 0.1  # so what is put back in inpainting has the level of what is there
        assert len(set(run.times)) == max(1, round(STEPS * strength))
        assert run.end.equal(clean)
        begun.append(run.times[0])
    assert begun == sorted(set(begun))


@every_scheduler
def test_strength_decides_how_much_changes(pair: tuple[Tensor, Tensor], case: str):
    clean, noise = pair
    change = [float((Run(case, s, clean, noise, None).result - clean).std()) for s in (0.05, 0.3, 0.6, 1.0)]
    assert change == sorted(change)
    assert change[0] < 0.1 and change[-1] > 1


@every_scheduler
def test_the_network_decides_the_result(pair: tuple[Tensor, Tensor], case: str):
    clean, noise = pair
    assert (Run(case, 0.3, clean, noise, answer=clean.flip(3)).result - clean.flip(3)).std() < 0.3


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
@pytest.mark.parametrize(("strength", "steps"), [(0.01, 1), (0.5, 10), (1.0, 20)])
def test_schedulers_with_two_calls_make_the_same_steps(
    pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch, name: str, strength: float, steps: int
):
    monkeypatch.setitem(CASES, name, ("epsilon", name, {}))
    clean, noise = pair
    run = Run(name, strength, clean, noise, answer=clean)
    assert len(run.times) == 2 * steps - 1
    assert (run.result - clean).abs().max() < 0.15


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_the_original_is_put_back_between_whole_steps(pair: tuple[Tensor, Tensor], name: str):
    """A network that knows the sound would leave it where it is: so must putting it back."""
    clean, noise = pair
    scheduler = make_scheduler(name, {}, "epsilon", NOISE)
    source = inpainting.FromAudio(torch.rand(1, 80), torch.zeros(80, dtype=torch.bool), 0.5, RATE)
    source.clean, source.mel, source.hop_size = clean, torch.zeros(1, 1, 8), 10
    x, times = source.start(scheduler, noise, STEPS)
    for t in times:
        advanced = scheduler.step(noise, t, x).prev_sample
        x = source.after_step(advanced)
        torch.testing.assert_close(x, advanced, rtol=0, atol=1e-4)


def test_from_noise_is_scaled_as_the_scheduler_wants():
    noise = torch.randn(1, 4, 2, 2)
    euler = make_scheduler("EulerDiscreteScheduler", {}, "epsilon", NOISE)
    inpainting.begin(euler, STEPS, 1.0, noise.device)
    assert inpainting.scale_noise(euler, noise).std() > 10 * noise.std()
    flow = make_scheduler("FlowMatchEulerDiscreteScheduler", {}, "flow", {})
    assert inpainting.scale_noise(flow, noise).equal(noise)


RATE = 100


def start(sound: Any, **options: Any) -> inpainting.FromAudio:
    given = {"count": 1, "strength": None, "spans": None, "samples": None, "sample_rate": RATE, "seconds": (0.5, 60)}
    return inpainting.check_source(sound, **(given | options))


def test_defaults_of_strength():
    sound = torch.rand(100)
    assert start(sound).strength == inpainting.STRENGTH < 1
    assert start(sound, spans=[(0.1, 0.2)]).strength == 1
    assert start(sound, strength=0.3, spans=[(0.1, 0.2)]).strength == 0.3


def test_one_sound_serves_all_and_each_its_own():
    sound = torch.rand(2, 80)
    assert start(sound[0].numpy(), count=4).wave.shape == (4, 80)
    both = start(sound, count=4).wave
    assert both[0].equal(both[1]) and both[2].equal(both[3]) and not both[0].equal(both[2])


def test_a_sound_is_cut_or_goes_on_with_its_mirror_image():
    sound = torch.arange(1.0, 101.0)
    assert start(sound, samples=60).wave.equal(sound[None, :60])
    longer = start(sound, samples=300, spans=[(1.0, None)]).wave[0]
    assert longer[:100].equal(sound) and longer[100:103].tolist() == [99, 98, 97] and longer[250:].eq(0).all()


def test_spans_become_samples():
    sound = start(torch.rand(100), spans=[(0.0, 0.1), (0.35, None)])
    assert sound.mask is not None and inpainting.runs(sound.mask) == [(0, 10), (35, 100)]


@pytest.mark.parametrize(
    ("spans", "latents"),
    [
        ([(0.0, 0.05)], [1, 0, 0, 0, 0, 1, 1]),  # of 20 samples each; the sound ends after five
        ([(0.2, 0.4)], [0, 1, 0, 0, 0, 1, 1]),
        ([(0.15, 0.44)], [0, 1, 0, 0, 0, 1, 1]),  # a quarter here and a fifth there
        ([(0.14, 0.46)], [1, 1, 1, 0, 0, 1, 1]),
        ([(0.39, 0.41)], [0, 1, 1, 0, 0, 1, 1]),  # short ones are never lost
        ([(0.1, 0.12), (0.98, None)], [1, 0, 0, 0, 1, 1, 1]),
    ],
)
def test_a_mask_of_samples_becomes_one_of_latents(spans: Any, latents: list[int]):
    sound = start(torch.rand(100), spans=spans)
    assert sound.merge(torch.ones(1, 7), torch.zeros(1, 7), unit=20)[0].tolist() == latents


def test_without_a_mask_nothing_is_kept():
    made = torch.ones(1, 7)
    assert start(torch.rand(100)).merge(made, torch.zeros(1, 7), 20) is made
    assert start(torch.rand(100)).merge_wave(3 * made)[0].equal(3 * made)


def test_a_loud_result_is_scaled_down_and_the_original_is_not():
    sound = start(torch.rand(100), count=2, spans=[(0.4, 0.6)])
    made = torch.full((2, 100), 0.5)
    made[0, 50], made[1, 10] = 4.0, 9.0  # the second outside the mask, where it is replaced
    sound.sample_rate = 250  # fades of 5 samples
    mixed, gains = sound.merge_wave(made)
    assert gains.tolist() == [0.25, 1.0]
    assert mixed[:, 50].tolist() == [1.0, 0.5] and mixed[:, :40].equal(sound.wave[:, :40])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.0}, "strength must be above 0 and at most 1, got 0"),
        ({"strength": 1.5}, "strength must be above 0 and at most 1, got 1.5"),
        ({"strength": float("nan")}, "strength must be"),
        ({"spans": []}, "mask is empty"),
        ({"spans": [(0.5, 0.5)]}, "mask 0.5-0.5 is empty"),
        ({"spans": [(0.8, 0.5)]}, "mask 0.8-0.5 is reversed"),
        ({"spans": [(0.8, 1.2)]}, "mask 0.8-1.2 lies outside the sound, which lasts 1 s"),
        ({"spans": [(2.0, None)]}, "mask 2- lies outside the sound"),
        ({"spans": [(-0.5, 0.5)]}, "mask -0.5-0.5 lies outside"),
        ({"samples": 200}, r"duration 2 s is longer than init_audio \(1 s\)"),
        ({"samples": 200, "spans": [(0.2, 0.3)]}, r"duration 2 s is longer than init_audio \(1 s\)"),
        ({"samples": 200, "spans": [(1.0, None)], "strength": 0.5}, "where init_audio is continued"),
        ({"sound": torch.rand(49)}, "init_audio is too short: 0.49 s, at least 0.5 s"),
        ({"sound": torch.zeros(0)}, "init_audio is too short: 0 s"),
        ({"sound": torch.zeros(100)}, "init_audio is silent"),
        ({"sound": torch.full((100,), float("nan"))}, "init_audio holds NaN"),
        ({"sound": torch.rand(3, 100)}, r"init_audio is \(3, 100\)"),
        ({"sound": torch.rand(1, 1, 100)}, r"init_audio is \(1, 1, 100\)"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        start(**({"sound": torch.rand(100)} | options))


def test_a_splice_keeps_the_rest_bit_for_bit():
    old, new = torch.rand(2, 1, 100) + 1
    mask = torch.zeros(100, dtype=torch.bool)
    mask[30:60] = mask[90:] = True
    mixed = inpainting.splice(old, new, mask, fade=5)[0]
    assert mixed[:30].equal(old[0, :30]) and mixed[60:90].equal(old[0, 60:90])
    assert mixed[35:55].equal(new[0, 35:55]) and mixed[95:].equal(new[0, 95:])
    nearer_old = (mixed - old[0]).abs() < (mixed - new[0]).abs()
    assert nearer_old[30:32].all() and not nearer_old[33:57].any() and nearer_old[58:60].all() and nearer_old[90]
