"""What diffusers' own test suite expects of every pipeline, and names that a user of diffusers would try."""

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from sonolume.config.base import LoraConfig
from sonolume.models import lora
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules.sampling import make_scheduler
from sonolume.utils import audio

TEXT, LONG = "a bell rings", "rain falls on a roof of tin, and a dog barks"
EMBEDS = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")


@pytest.fixture(scope="module")
def pipe(make_pipeline) -> TextToAudioPipeline:
    return quiet(make_pipeline("flow"))


def quiet(pipe: TextToAudioPipeline) -> TextToAudioPipeline:
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(num_steps=3)
    return pipe


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents(pipe: TextToAudioPipeline, prompt: Any = TEXT, **options: Any) -> Tensor:
    return pipe(prompt, **({"generator": seeded(0), "output_type": "latent"} | options)).audios


def test_the_call_has_the_names_of_diffusers():
    names = set(inspect.signature(TextToAudioPipeline.__call__).parameters)
    assert set(inspect.signature(diffusers.AudioLDMPipeline.__call__).parameters) - names == {
        "callback", "callback_steps",  # deprecated
    }  # fmt: skip


def test_a_tuple_instead_of_an_output(pipe: TextToAudioPipeline):
    (audios,) = pipe(TEXT, generator=seeded(0), return_dict=False)
    np.testing.assert_array_equal(audios, pipe(TEXT, generator=seeded(0))[0])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_texts_are_encoded_in_isolation(make_pipeline, masked: bool, guidance_scale: float):
    whole = quiet(make_pipeline("flow", text_mask=masked))
    parts = {name: part for name, part in whole.components.items() if name in ("text_encoder", "tokenizer")}
    others = {name: part for name, part in whole.components.items() if name not in parts}
    settings = {"frames": 32, "text_mask": masked, "num_steps": 3}
    encoder = TextToAudioPipeline(**dict.fromkeys(others), **parts, **settings)
    options = {"do_classifier_free_guidance": guidance_scale != 1, "negative_prompt": "hiss"}
    embeds = dict(zip(EMBEDS, encoder.encode_prompt([TEXT, LONG], **options), strict=True))
    rest = quiet(TextToAudioPipeline(**others, **dict.fromkeys(parts), **settings))
    given: dict[str, Any] = {"guidance_scale": guidance_scale, "num_waveforms_per_prompt": 2}
    alone = latents(rest, None, generator=seeded(0, 1, 2, 3), **embeds, **given)
    wanted = latents(whole, [TEXT, LONG], generator=seeded(0, 1, 2, 3), negative_prompt="hiss", **given)
    torch.testing.assert_close(alone, wanted, rtol=0, atol=1e-4)


def test_states_and_texts_mix(pipe: TextToAudioPipeline):
    states, mask, negative, negative_mask = pipe.encode_prompt(TEXT, LONG)
    wanted = latents(pipe, negative_prompt=LONG)
    for options in (
        {"prompt": None, "prompt_embeds": states, "prompt_attention_mask": mask, "negative_prompt": LONG},
        {"negative_prompt_embeds": negative, "negative_prompt_attention_mask": negative_mask},
    ):
        torch.testing.assert_close(latents(pipe, **options), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": None}, "no text: give prompt, or prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 3, 16)}, "give prompt or prompt_embeds"),
        ({"negative_prompt": "x", "negative_prompt_embeds": torch.zeros(1, 3, 16)}, "give negative_prompt or"),
        ({"negative_prompt_embeds": torch.zeros(2, 3, 16)}, "negative_prompt_embeds are of 2 texts"),
        ({"duration": 1.0, "audio_length_in_s": 1.0}, "two names of one number"),
        ({"eta": 0.5}, "UniPCMultistepScheduler has no eta"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "no 'noise', only latents"),
    ],
)
def test_wrong_arguments_are_one_line(pipe: TextToAudioPipeline, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pipe(**({"prompt": TEXT} | options))


def test_a_callback_sees_and_changes_every_step(pipe: TextToAudioPipeline):
    seen = []

    def note(given: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert given is pipe and set(tensors) == set(names)
        seen.append((step, float(t), {name: one.shape for name, one in tensors.items()}))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == pipe.num_timesteps - 1 else {}

    names = pipe._callback_tensor_inputs
    options = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": names}
    assert latents(pipe, **options).eq(0).all()
    assert [step for step, *_ in seen] == [0, 1, 2] and seen[0][1] > seen[1][1] > seen[2][1]
    assert seen[0][2] == {"latents": (1, 4, 20, 8), "prompt_embeds": (1, 13, 16), "negative_prompt_embeds": (1, 13, 16)}


def test_a_callback_changes_guidance_and_text_and_interrupts(pipe: TextToAudioPipeline):
    def made(change: Any) -> Tensor:
        return latents(pipe, guidance_scale=3.0, callback_on_step_end=change,
                       callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])  # fmt: skip

    def stronger(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._guidance_scale += 1.0
        return tensors

    def other_text(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"prompt_embeds": torch.zeros_like(tensors["prompt_embeds"])}

    def stop(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> None:
        steps.append(step)
        pipe._interrupt = step == 1

    plain, steps = made(lambda *arguments: arguments[-1]), []
    assert (made(stronger) - plain).abs().max() > 1e-4
    assert pipe.guidance_scale == 3.0 + pipe.num_timesteps
    assert (made(other_text) - plain).abs().max() > 1e-4
    made(stop)
    assert steps == [0, 1] and latents(pipe, guidance_scale=3.0).equal(plain)


@pytest.mark.parametrize("name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_seed_reaches_schedulers_that_draw_noise(
    pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(pipe, "scheduler", make_scheduler(name, {}, "epsilon", {}))
    both = latents(pipe, [TEXT, LONG], generator=seeded(1, 2))
    assert both.equal(latents(pipe, [TEXT, LONG], generator=seeded(1, 2)))
    torch.testing.assert_close(latents(pipe, LONG, generator=seeded(2))[0], both[1], rtol=0, atol=1e-3)
    one = torch.Generator()
    assert latents(pipe, generator=one.manual_seed(3)).equal(latents(pipe, generator=one.manual_seed(3)))


def test_eta_reaches_ddim(pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipe, "scheduler", make_scheduler("DDIMScheduler", {}, "epsilon", {}))
    noisy = latents(pipe, eta=1.0)
    assert noisy.equal(latents(pipe, eta=1.0)) and (noisy - latents(pipe)).abs().max() > 1e-3


def test_attention_gets_its_arguments_and_the_last_act_is_freeing_hooks(
    pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Any] = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda unet, inputs, options: seen.append(options["cross_attention_kwargs"]), with_kwargs=True
    )
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: seen.append("free"))
    latents(pipe, cross_attention_kwargs={}, guidance_scale=1)
    hook.remove()
    assert seen == [{}, {}, {}, "free"]


def test_slicing_changes_nothing(pipe: TextToAudioPipeline):
    options = {"output_type": "mel", "generator": seeded(0, 1)}
    wanted = pipe([TEXT, LONG], **options).audios
    pipe.enable_vae_slicing()
    assert pipe.vae.use_slicing
    torch.testing.assert_close(pipe([TEXT, LONG], **(options | {"generator": seeded(0, 1)})).audios, wanted)
    pipe.disable_vae_slicing()
    assert not pipe.vae.use_slicing


def test_duration_has_the_name_of_diffusers(pipe: TextToAudioPipeline):
    assert pipe(TEXT, audio_length_in_s=0.5).audios.shape == (1, pipe.sample_rate // 2)


def test_a_pipeline_from_a_pipeline(pipe: TextToAudioPipeline):
    again = quiet(TextToAudioPipeline.from_pipe(pipe, guidance_scale=1.0))
    assert again.unet is pipe.unet and again.config.frames == 32 and again.config.guidance_scale == 1.0
    assert latents(again).equal(latents(pipe, guidance_scale=1.0))


def test_lora_weights_sound_as_merged_ones(make_pipeline, tmp_path: Path):
    pytest.importorskip("peft")
    trained, loaded, merged = (quiet(make_pipeline("flow")) for _ in range(3))
    settings = LoraConfig(rank=2, alpha=4)
    adapters = lora.add(trained.unet, settings)
    for weight in adapters.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    lora.save(trained.unet, tmp_path / lora.FILE, settings, "base")
    loaded.load_lora_weights(str(tmp_path))
    lora.load(merged, tmp_path)
    wanted = latents(merged)
    torch.testing.assert_close(latents(loaded), wanted, rtol=0, atol=1e-3)
    loaded.unload_lora_weights()
    assert (latents(loaded) - wanted).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["path", "float64", "int16", "int32", "uint8"])
def test_a_recording_of_any_type(pipe: TextToAudioPipeline, tmp_path: Path, kind: str):
    wave = (0.3 * np.sin(np.arange(8192) / 9)).astype(np.float32)
    given: Any = wave.astype(np.float64)
    if kind == "path":
        given = tmp_path / "wave.wav"
        audio.save_wav(given, wave, pipe.sample_rate)
    elif kind != "float64":
        limits = np.iinfo(kind)
        half = (int(limits.max) - int(limits.min) + 1) / 2
        given = np.round(wave * half + (0 if limits.min else half)).astype(kind)
    options = {"mask": (0.2, 0.3), "num_inference_steps": 1}
    made, wanted = (pipe(TEXT, init_audio=one, generator=seeded(0), **options).audios for one in (given, wave))
    np.testing.assert_allclose(made[0, :3200], wanted[0, :3200], atol=1 / 128 if kind == "uint8" else 1e-4)


def test_one_span_is_a_mask(pipe: TextToAudioPipeline):
    wave = np.linspace(-0.5, 0.5, 8192, dtype=np.float32)
    for one, several in (((0.2, 0.3), [(0.2, 0.3)]), ((0.2, None), [(0.2, None)])):
        options = {"init_audio": wave, "num_inference_steps": 1, "output_type": "mel"}
        made = [pipe(TEXT, mask=mask, generator=seeded(0), **options).audios for mask in (one, several)]
        assert made[0].equal(made[1])


@pytest.mark.parametrize("wave", [np.ones(8192, np.int64), np.ones(8192, bool)])
def test_samples_without_a_range_are_refused(pipe: TextToAudioPipeline, wave: np.ndarray):
    with pytest.raises(ValueError, match=r"init_audio holds (int64|bool) values"):
        pipe(TEXT, init_audio=wave)


def test_from_pretrained_names_what_is_wrong(root: Path, in_folder: Path, tiny_checkpoint: Path):
    (in_folder / "models").mkdir()
    (in_folder / "models" / "right").symlink_to(tiny_checkpoint)
    assert TextToAudioPipeline.from_pretrained("models/right").config.frames == 32
    with pytest.raises(ValueError, match="models/wrong: no such folder"):
        TextToAudioPipeline.from_pretrained("models/wrong")
    with pytest.raises(ValueError, match="nobody/nothing: neither a folder nor available from the hub"):
        TextToAudioPipeline.from_pretrained("nobody/nothing")
    others = {"stable_diffusion": "StableDiffusionPipeline", "text_to_audio/vocoder": "SpeechT5HifiGan"}
    for name, found in (others | {"audiotoken": "a model of a2i/audiotoken"}).items():
        with pytest.raises(ValueError, match=f"{name}: holds {found}.*, not TextToAudioPipeline"):
            TextToAudioPipeline.from_pretrained(root / "pretrained" / "mini" / name)
