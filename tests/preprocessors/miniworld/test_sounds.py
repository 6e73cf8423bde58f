from dataclasses import replace

import numpy as np
import pytest

from sonolume.preprocessors.miniworld import SAMPLE_RATE, SAMPLES
from sonolume.preprocessors.miniworld.pictures import onsets
from sonolume.preprocessors.miniworld.scene import COUNTABLE, KINDS, Event, Scene, scenes
from sonolume.preprocessors.miniworld.sounds import QUIET_DB, SYNTHESISERS, render


def alone(kind: str, seed: int = 1, **attributes: object) -> Scene:
    """A scene of one event."""
    values: dict = {"count": 1 if kind in COUNTABLE else 0, "direction": "up" if kind == "siren" else ""}
    return Scene("a", [Event(kind, **{**values, **attributes})], seed=seed)


def level(wave: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((wave**2).mean()))


def centroid(wave: np.ndarray) -> float:
    """Mean frequency in Hz."""
    power = np.abs(np.fft.rfft(wave)) ** 2
    return float((power * np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)).sum() / power.sum())


def test_every_kind_has_a_voice():
    assert tuple(SYNTHESISERS) == KINDS


def test_waves_are_finite_and_bounded():
    for scene in scenes("valid", 60):
        wave = render(scene)
        assert wave.shape == (SAMPLES,)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        assert np.abs(wave).max() <= 0.95 + 1e-6


def test_the_loudest_scene_does_not_clip():
    for kind in KINDS:
        scene = Scene("a", [replace(alone(k).events[0], loudness=1.0) for k in (kind, "engine")], "over", seed=2)
        assert np.abs(render(scene)).max() <= 0.95 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_is_silent_even_when_quiet(kind: str):
    silence = level(render(replace(alone(kind), events=[])))
    assert level(render(alone(kind, loudness=0.0))) > 2.5 * silence
    assert level(render(alone(kind, loudness=1.0))) > 25 * silence


def test_the_same_scene_gives_the_same_samples_and_another_does_not():
    for kind in KINDS:
        np.testing.assert_array_equal(render(alone(kind)), render(alone(kind)))
        assert np.abs(render(alone(kind, seed=1)) - render(alone(kind, seed=2))).max() > 1e-3


def test_loudness_is_a_gain():
    loud, quiet = level(render(alone("engine", loudness=1.0))), level(render(alone("engine", loudness=0.0)))
    assert 20 * np.log10(quiet / loud) == pytest.approx(QUIET_DB, abs=0.5)


@pytest.mark.parametrize("kind", ["bell", "siren", "engine", "bird", "phone", "whistle"])
def test_pitch_raises_the_spectrum(kind: str):
    low, high = (centroid(render(alone(kind, pitch=pitch, timbre=0.5))) for pitch in (0.0, 1.0))
    assert high > 1.1 * low


def test_pitch_raises_the_harmonics_of_a_bark():
    def fundamental(wave: np.ndarray) -> float:
        at = int(np.abs(wave).argmax())
        part = wave[at - 500 : at + 500].astype(float)
        correlation = np.correlate(part, part, mode="full")[len(part) - 1 :]
        return SAMPLE_RATE / (30 + correlation[30:80].argmax())  # between 200 and 533 Hz

    assert fundamental(render(alone("dog", pitch=1.0))) > 1.5 * fundamental(render(alone("dog", pitch=0.0)))


def test_a_siren_rises_or_falls():
    half = SAMPLES // 2
    up, down = render(alone("siren", direction="up")), render(alone("siren", direction="down"))
    assert centroid(up[half:]) > 1.3 * centroid(up[:half])
    assert centroid(down[:half]) > 1.3 * centroid(down[half:])


@pytest.mark.parametrize("kind", COUNTABLE)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_count_is_the_number_of_onsets(kind: str, count: int):
    for seed in range(5):
        assert len(onsets(alone(kind, seed, count=count, timbre=seed / 4, pitch=seed / 4))[0]) == count


def test_then_sounds_one_after_the_other():
    found = [scene for scene in scenes("train", 120) if scene.relation == "then"]
    assert len(found) > 20
    for scene in found:
        first, second = scene.events
        for event in scene.events:
            others = [replace(e, loudness=e.loudness if e is event else -9.0) for e in scene.events]
            wave = render(replace(scene, events=others))
            border = int((first.end + second.start) / 2 * SAMPLE_RATE)
            inside, outside = (wave[:border], wave[border:]) if event is first else (wave[border:], wave[:border])
            assert level(inside) > 4 * level(outside), (scene.uid, event.kind)


def test_over_sounds_together():
    scene = Scene("a", [alone("rain").events[0], alone("engine").events[0]], "over", seed=3)
    for part in np.split(render(scene), 4):
        power = np.abs(np.fft.rfft(part)) ** 2
        low, high = power[: len(power) // 16].sum(), power[len(power) // 4 :].sum()
        assert 0.02 < low / high < 50
