"""Sounds longer than one clip, and guidance, through the pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.unet import with_positions

TEXT = "rain falls"
CLIP = 32 * 256 / 16000  # seconds of the tiny pipeline: 8 latents of 1024 samples
LONG = 3 * CLIP


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pipe(make_pipeline) -> TextToAudioPipeline:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(num_steps=3)
    return pipe


@pytest.fixture
def asked(pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the U-Net is given, call by call."""
    seen: list[Tensor] = []
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda x, *a, **k: (seen.append(x), forward(x, *a, **k))[1])
    return seen


def latents(pipe: TextToAudioPipeline, **options: Any) -> Tensor:
    return pipe(TEXT, output_type="latent", **({"duration": LONG, "generator": generators(0)} | options)).audios


@pytest.mark.parametrize("seconds", [CLIP + 1 / 16000, 0.9, 1.23456])
def test_duration_is_exact_beyond_a_clip(pipe: TextToAudioPipeline, seconds: float):
    made = pipe(TEXT, duration=seconds, generator=generators(0), num_inference_steps=1)
    samples = round(seconds * 16000)
    assert made.audios.shape == (1, samples) and np.isfinite(made.audios).all()
    assert made.mels.shape == (1, 80, -(-samples // 256))
    assert made.audios[0, -256:].std() > 0


def test_windows_are_what_the_network_was_trained_on(pipe: TextToAudioPipeline, asked: list[Tensor]):
    assert latents(pipe).shape == (1, 4, 20, 24)
    (first,) = {call.shape for call in asked}
    assert first == (2 * 5, 6, 20, 8)  # five windows, with and without the text
    positions = with_positions(asked[0][:1, :4], 6)[0, 4:]
    assert all(window[4:].equal(positions) for call in asked for window in call)


def test_memory_is_bounded(pipe: TextToAudioPipeline, asked: list[Tensor]):
    few = latents(pipe, windows_at_once=2)
    assert {len(call) for call in asked} == {4, 2} and len(asked) == 3 * 3
    torch.testing.assert_close(few, latents(pipe), rtol=1e-3, atol=1e-3)


def test_overlap_decides_and_does_not_shift(pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch):
    assert not latents(pipe, window_overlap=0.25, duration=CLIP + 6 * 0.064).allclose(
        latents(pipe, window_overlap=0.75, duration=CLIP + 6 * 0.064), atol=1e-3
    )
    local = lambda x, *_, **__: type("Output", (), {"sample": x[:, :4] * 0.3})()  # noqa: E731
    monkeypatch.setattr(pipe.unet, "forward", local)  # a network that sees no neighbours: windows cannot matter
    torch.testing.assert_close(latents(pipe, window_overlap=0.0), latents(pipe, window_overlap=0.9))


def test_a_long_sound_does_not_depend_on_its_batch(pipe: TextToAudioPipeline):
    texts = [TEXT, "a dog barks at a bell"]
    both = pipe(texts, duration=LONG, generator=generators(1, 2), output_type="mel").audios
    alone = pipe(texts[1], duration=LONG, generator=generators(2), output_type="mel").audios
    torch.testing.assert_close(both[1], alone[0], rtol=0, atol=1e-3)
    assert (both[0] - both[1]).abs().max() > 0.01


def test_decoding_is_by_windows(pipe: TextToAudioPipeline):
    windows = pipe._begin(1, 24 * 1024 / 16000, 0.5, None, None, None)[1]
    long = torch.randn(1, 4, 20, 24, generator=generators(0)[0])
    with torch.no_grad():
        mel = pipe.decode_latents(long, windows)
        ends = [pipe.decode_latents(long[..., :8])[..., :16], pipe.decode_latents(long[..., -8:])[..., 16:]]
        again, encoded = pipe.encode_wave(torch.rand(1, 24 * 1024), windows)
    assert mel.shape == again.shape == (1, 80, 96) and encoded.shape == long.shape
    torch.testing.assert_close(mel[..., :16], ends[0])
    torch.testing.assert_close(mel[..., -16:], ends[1])


@pytest.fixture(scope="module")
def rain(root: Path) -> dict[float, np.ndarray]:
    """Overlap -> ln mel (80, 320) of 5.12 s of the shipped pipeline's rain: windows meet every 80 or 160 frames."""
    pipe = TextToAudioPipeline.from_pretrained(root / "pretrained" / "mini" / "text_to_audio")
    pipe.set_progress_bar_config(disable=True)
    options = {"duration": 5.12, "num_inference_steps": 6, "output_type": "mel"}
    return {
        overlap: pipe(TEXT, generator=generators(0), window_overlap=overlap, **options).audios[0].numpy()
        for overlap in (0.0, 0.5)
    }


def worst_seam(mel: np.ndarray, seams: tuple[int, ...]) -> float:
    """How far energy and spectral flux within 8 frames of the seams leave the range of the others; 0 = not at all."""
    energy = np.log(np.exp(mel).sum(axis=0))
    flux = np.abs(np.diff(mel, axis=1, prepend=mel[:, :1])).mean(axis=0)
    frames = np.arange(mel.shape[1])
    near = np.min([np.abs(frames - seam) for seam in seams], axis=0) < 8
    inside = frames > 32  # rain begins after a moment, as it does in every clip
    found = 0.0
    for values in (energy, flux):
        others, at_seams = values[inside & ~near], values[inside & near]
        width = others.max() - others.min()
        found = max(found, (at_seams.max() - others.max()) / width, (others.min() - at_seams.min()) / width)
    return found


def test_seams_are_not_to_be_heard(rain: dict[float, np.ndarray]):
    assert worst_seam(rain[0.5], seams=(80, 160, 240)) <= 0.1
    assert worst_seam(rain[0.0], seams=(160,)) > 0.5  # what windows that know nothing of each other give


def test_guidance_only_in_its_interval_is_less_work(pipe: TextToAudioPipeline, asked: list[Tensor]):
    plain = latents(pipe, duration=None, num_inference_steps=10)
    sizes = [len(call) for call in asked]
    asked.clear()
    some = latents(pipe, duration=None, num_inference_steps=10, guidance_interval=(0.2, 0.7))
    times = [float(t) / 1000 for t in pipe.scheduler.timesteps]
    assert sizes == [2] * 10
    assert [len(call) for call in asked] == [2 if 0.2 <= time <= 0.7 else 1 for time in times]
    assert 10 < sum(len(call) for call in asked) < 20
    assert (some - plain).abs().max() > 1e-3


def test_cached_layers_belong_to_their_windows(pipe: TextToAudioPipeline, asked: list[Tensor]):
    plain, cached = (latents(pipe, cache_interval=interval) for interval in (1, 2))
    asked.clear()
    few = latents(pipe, cache_interval=2, windows_at_once=2)
    assert {len(call) for call in asked} == {4, 2} and len(asked) == 3 * 3
    torch.testing.assert_close(few, cached, rtol=1e-3, atol=1e-3)
    assert (cached - plain).abs().max() > 1e-2


def test_cached_layers_follow_the_guidance(pipe: TextToAudioPipeline):
    options = {"duration": None, "num_inference_steps": 6, "guidance_interval": (0.2, 0.7)}
    plain, cached = (latents(pipe, cache_interval=interval, **options) for interval in (1, 2))
    assert cached.isfinite().all() and 1e-3 < (cached - plain).abs().max() < plain.abs().max()


@pytest.mark.parametrize("masked", [True, False])
def test_outside_the_interval_the_text_is_followed(make_pipeline, masked: bool):
    pipe = make_pipeline(text_mask=masked)
    pipe.set_progress_bar_config(disable=True)
    options = {"duration": None, "num_inference_steps": 2, "guidance_interval": (0.0, 1e-6)}
    guided, unguided = (latents(pipe, duration=None, num_inference_steps=2, guidance_scale=g) for g in (4, 1))
    assert (guided - unguided).abs().max() > 0.1
    torch.testing.assert_close(latents(pipe, **options), unguided, rtol=1e-3, atol=1e-3)


def test_guidance_rescale_does_something(pipe: TextToAudioPipeline):
    plain, whole, half = (latents(pipe, duration=None, guidance_rescale=share) for share in (0.0, 1.0, 0.5))
    assert (plain - whole).abs().max() > 1e-3 and (plain - half).abs().max() > 1e-4 and not half.equal(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": 0.49}, "duration must be from 0.5 to 600 s, got 0.49"),
        ({"duration": 600.1}, "duration must be from 0.5 to 600 s, got 600.1"),
        ({"duration": float("nan")}, "duration must be from 0.5 to 600 s, got nan"),
        ({"window_overlap": 1.0}, "window_overlap must be from 0 to 0.9, got 1"),
        ({"windows_at_once": 0}, "windows_at_once must be at least 1, got 0"),
        ({"guidance_rescale": 2.0}, "guidance_rescale must be from 0 to 1, got 2"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval must be LOW HIGH with 0 <= LOW < HIGH <= 1"),
    ],
)
def test_wrong_numbers_are_refused(pipe: TextToAudioPipeline, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pipe(TEXT, **options)
