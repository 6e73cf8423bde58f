"""Audio-to-audio, inpainting and continuation through the pipeline."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

TEXT = "a bell rings"
RATE = 16000
FADE = 320


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pipe(make_pipeline) -> TextToAudioPipeline:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(num_steps=4)
    return pipe


def sound(samples: int, seed: int = 0) -> np.ndarray:
    """A wave that no network makes by chance."""
    random = np.random.default_rng(seed)
    return (0.1 * random.standard_normal(samples) * np.linspace(0.2, 1, samples)).astype(np.float32)


@torch.no_grad()
def encoded(pipe: TextToAudioPipeline, wave: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mel and latents of a wave."""
    windows = pipe._begin(1, len(wave) / 16000, 0.5, None, None, None)[1]
    return pipe.encode_wave(torch.from_numpy(wave)[None], windows)


def make(pipe: TextToAudioPipeline, wave: Any, **options: Any) -> Any:
    return pipe(TEXT, init_audio=wave, **({"generator": generators(0)} | options))


def test_strength_decides_how_far_it_goes(pipe: TextToAudioPipeline):
    wave = sound(8192)
    _, clean = encoded(pipe, wave)
    results = [
        make(pipe, wave, strength=s, num_inference_steps=10, output_type="latent").audios for s in (0.1, 0.5, 0.8)
    ]
    distance = [float((latents - clean).abs().mean()) for latents in results]
    assert distance == sorted(distance) and distance[0] < 0.3 * distance[-1]
    default = make(pipe, wave, num_inference_steps=10, output_type="latent").audios
    assert default.equal(results[-1])


def test_at_full_strength_nothing_is_left_of_it(pipe: TextToAudioPipeline):
    made = make(pipe, sound(8192), strength=1.0).audios
    np.testing.assert_array_equal(made, pipe(TEXT, generator=generators(0)).audios)


@pytest.mark.parametrize("samples", [8000, 8192, 13001])
def test_a_sound_from_a_sound_lasts_as_long(pipe: TextToAudioPipeline, samples: int):
    assert make(pipe, sound(samples), strength=0.5).audios.shape == (1, samples)
    assert make(pipe, sound(samples), strength=0.5, duration=0.5).audios.shape == (1, 8000)


@pytest.mark.parametrize("samples", [8192, 20000])
def test_outside_the_mask_the_sound_is_the_original(pipe: TextToAudioPipeline, samples: int):
    """Within one clip, and over several windows."""
    wave = sound(samples)
    made = make(pipe, wave, mask=[(0.2, 0.3), (0.45, None)])
    first, last, second = 3200, 4800, 7200
    np.testing.assert_array_equal(made.audios[0, :first], wave[:first])
    np.testing.assert_array_equal(made.audios[0, last:second], wave[last:second])
    renewed = made.audios[0, first + FADE : last - FADE], made.audios[0, second + FADE :]
    assert np.abs(renewed[0] - wave[first + FADE : last - FADE]).mean() > 0.01
    assert np.abs(renewed[1] - wave[second + FADE :]).mean() > 0.01
    kept, _ = encoded(pipe, wave)
    assert made.mels[0, :, :12].equal(kept[0, :, :12]) and not made.mels[0, :, 13:18].equal(kept[0, :, 13:18])


def test_what_is_kept_is_what_the_network_sees(pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch):
    """Less and less noised, at every step, in the latents outside the mask; and the end holds it itself."""
    wave = sound(8192)
    _, clean = encoded(pipe, wave)
    seen: list[float] = []
    forward = pipe.unet.forward

    def note(x: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(float((x[:1, :4, :, :4] - clean[..., :4]).std() / clean.std()))
        return forward(x, *args, **options)

    monkeypatch.setattr(pipe.unet, "forward", note)
    end = make(pipe, wave, mask=[(0.256, 0.512)], output_type="latent", num_inference_steps=8).audios
    assert seen == sorted(seen, reverse=True) and seen[-1] < 0.2 * seen[0]
    assert end[..., :4].equal(clean[..., :4]) and not end[..., 4:].allclose(clean[..., 4:], atol=0.1)


def test_strength_inside_a_mask(pipe: TextToAudioPipeline):
    wave, mask = sound(8192), [(0.2, 0.4)]
    some, all_new = make(pipe, wave, mask=mask, strength=0.3).audios, make(pipe, wave, mask=mask).audios
    explicit = make(pipe, wave, mask=mask, strength=1.0).audios
    np.testing.assert_array_equal(all_new, explicit)
    np.testing.assert_array_equal(some[0, :3200], wave[:3200])
    assert np.abs(some - all_new).max() > 1e-3


def test_a_sound_goes_on(pipe: TextToAudioPipeline):
    wave = sound(8500)
    made = make(pipe, wave, mask=[(8500 / RATE, None)], duration=1.5).audios
    assert made.shape == (1, 24000)
    np.testing.assert_array_equal(made[0, :8500], wave)
    assert made[0, 8500:].std() > 1e-4
    assert np.abs(made[0, 8500] - wave[-1]) < 0.5  # no click: it goes on from the last value


def test_one_sound_for_several_texts_or_one_each(pipe: TextToAudioPipeline):
    waves, mask = np.stack([sound(8192, 1), sound(8192, 2)]), [(0.3, None)]
    texts = [TEXT, "a dog barks"]
    options: dict[str, Any] = {"mask": mask, "generator": generators(0, 1)}
    shared = pipe(texts, init_audio=waves[0], **options).audios
    for row in shared:
        np.testing.assert_array_equal(row[:4800], waves[0, :4800])
    options["generator"] = generators(0, 1)
    own = pipe(texts, init_audio=torch.from_numpy(waves), **options).audios
    np.testing.assert_array_equal(own[1, :4800], waves[1, :4800])
    np.testing.assert_allclose(own[0], shared[0], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.5}, "strength needs init_audio"),
        ({"mask": [(0.1, 0.2)]}, "mask needs init_audio"),
        ({"init_audio": np.zeros(8192)}, "init_audio is silent"),
        ({"init_audio": sound(7999)}, "init_audio is too short"),
        ({"init_audio": sound(8192), "strength": 1.1}, "strength must be above 0 and at most 1"),
        ({"init_audio": sound(8192), "mask": [(0.5, 0.6)]}, "mask 0.5-0.6 lies outside the sound, which lasts 0.512 s"),
        ({"init_audio": sound(8192), "duration": 2.0}, "duration 2 s is longer than init_audio"),
        ({"init_audio": np.ones(601 * RATE)}, "init_audio is longer than 600 s"),
    ],
)
def test_what_is_refused(pipe: TextToAudioPipeline, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pipe(TEXT, **options)
