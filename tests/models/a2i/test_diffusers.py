"""What a user of diffusers expects of a pipeline, for `AudioToImagePipeline` on random weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sonolume.models.a2i.loading import load_stable_diffusion
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.utils.errors import UserError

TOKENS = torch.linspace(-1, 1, 2 * 32).view(2, 1, 32)  # of two sounds
PICTURE = Image.fromarray(np.linspace(0, 255, 32 * 32 * 3).astype(np.uint8).reshape(32, 32, 3))


@pytest.fixture
def sd(tiny_stable_diffusion: Path) -> Any:
    sd = load_stable_diffusion(str(tiny_stable_diffusion), "--stable_diffusion", torch.float32)
    sd.set_progress_bar_config(disable=True)
    return sd


@pytest.fixture
def pipe(sd: Any, formula_encoder: Callable[..., Any]) -> AudioToImagePipeline:
    pipe = AudioToImagePipeline(formula_encoder(), sd)
    pipe.num_steps = 3
    return pipe


def latents(pipe: AudioToImagePipeline, *args: Any, seed: int = 0, **options: Any) -> torch.Tensor:
    """Latents (B, z, h, w) of the sounds `TOKENS`, or of `prompt_embeds`."""
    if not args and "prompt_embeds" not in options:
        args = (TOKENS,)
    options = {"output_type": "latent"} | options
    return pipe(*args, generator=torch.Generator().manual_seed(seed), **options).images


def test_a_tuple_or_an_output_of_each_type(pipe: AudioToImagePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        kind: pipe(TOKENS, generator=torch.Generator().manual_seed(0), output_type=kind)
        for kind in ("pil", "np", "pt")
    }
    assert made["np"].images.shape == (2, 32, 32, 3) and made["pt"].images.shape == (2, 3, 32, 32)
    np.testing.assert_array_equal(made["np"].images, made["pt"].images.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal((made["np"].images[0] * 255).round(), np.asarray(made["pil"].images[0]))
    images, flags = pipe(TOKENS, generator=torch.Generator().manual_seed(0), return_dict=False)
    assert flags is None and np.array_equal(images[1], made["pil"][0][1])
    assert latents(pipe).shape == (2, 4, 8, 8)
    monkeypatch.setattr(pipe.sd, "run_safety_checker", lambda image, device, dtype: (image, [True, False]))
    images, flags = pipe(TOKENS, return_dict=False)
    assert flags == [True, False] and images[0] is None and images[1] is not None


def test_what_a_callback_returns_is_used(pipe: AudioToImagePipeline) -> None:
    seen: list[tuple[int, set[str]]] = []

    def replace(inner: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, set(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else tensors

    names = pipe._callback_tensor_inputs
    assert {"latents", "prompt_embeds", "negative_prompt_embeds"} <= set(names)
    options: dict[str, Any] = {"callback_on_step_end": replace, "callback_on_step_end_tensor_inputs": names}
    assert not latents(pipe, **options).any()
    assert seen == [(step, set(names)) for step in range(3)]
    assert not latents(pipe, **options, init_image=PICTURE, strength=1.0).any()
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        pipe(TOKENS, callback_on_step_end=replace, callback_on_step_end_tensor_inputs=["weights"])


def test_a_prompt_is_encoded_by_the_text_encoder_alone(
    pipe: AudioToImagePipeline, formula_encoder: Callable[..., Any]
) -> None:
    def part(*missing: str) -> AudioToImagePipeline:
        components = pipe.sd.components | dict.fromkeys(missing)
        sd = diffusers.StableDiffusionPipeline(**components, requires_safety_checker=False)
        sd.set_progress_bar_config(disable=True)
        return AudioToImagePipeline(formula_encoder(), sd)

    whole = latents(pipe, negative_prompt=["red", "dull"], text="a dog")
    encoder = part("unet", "vae", "scheduler")
    states = encoder.encode_prompt(TOKENS, text="a dog", negative_prompt=["red", "dull"])
    assert [found.shape for found in states] == [(2, 77, 32), (2, 77, 32)]
    painter = part("text_encoder", "tokenizer")
    given = {"prompt_embeds": states[0], "num_inference_steps": 3}
    assert latents(painter, **given, negative_prompt_embeds=states[1]).equal(whole)
    assert latents(painter, **given, guidance_scale=1.0).equal(
        latents(pipe, negative_prompt="x", text="a dog", guidance_scale=1.0)
    )
    for wrong in ((TOKENS,), ()):
        with pytest.raises(ValueError, match="prompt_embeds"):
            painter(*wrong)
    with pytest.raises(ValueError, match="prompt_embeds replace sounds"):
        painter(TOKENS, prompt_embeds=states[0])
    with pytest.raises(ValueError, match="no text encoder"):
        latents(painter, prompt_embeds=states[0])


def test_the_seed_reaches_schedulers_that_draw_noise(pipe: AudioToImagePipeline) -> None:
    for name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler"):
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
        assert type(pipe.sd.scheduler).__name__ == name
        for options in ({}, {"init_image": PICTURE, "strength": 0.7}):
            torch.manual_seed(0)
            first = latents(pipe, **options)
            torch.manual_seed(1)
            assert latents(pipe, **options).equal(first)
            assert not latents(pipe, seed=1, **options).equal(first)


def test_eta_is_the_noise_of_ddim(pipe: AudioToImagePipeline) -> None:
    with pytest.raises(ValueError, match="has no eta"):
        latents(pipe, eta=0.5)
    pipe.use_scheduler("ddim")
    noisy = latents(pipe, eta=1.0)
    assert noisy.equal(latents(pipe, eta=1.0)) and not noisy.equal(latents(pipe))


def test_pictures_of_one_prompt_and_initial_noise(pipe: AudioToImagePipeline) -> None:
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    four = latents(pipe, num_images_per_prompt=2, latents=noise)
    assert len(four) == 4
    torch.testing.assert_close(four[2:], latents(pipe, TOKENS[1:], num_images_per_prompt=2, latents=noise[2:]))
    assert len(latents(pipe, num_images_per_prompt=2, init_image=PICTURE, strength=0.4)) == 4
    with pytest.raises(ValueError, match="latents and init_image"):
        latents(pipe, latents=noise[:2], init_image=PICTURE)


def write_lora(folder: Path, unet: Any) -> None:
    from safetensors.torch import save_file

    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    rows, columns = unet.get_submodule(name).weight.shape
    pair = {"lora_A": torch.randn(2, columns), "lora_B": torch.randn(rows, 2)}
    weights = {f"unet.{name}.{key}.weight": value for key, value in pair.items()}
    save_file(weights, folder / "pytorch_lora_weights.safetensors")


def test_a_lora_and_its_scale(pipe: AudioToImagePipeline, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    plain = latents(pipe)
    write_lora(tmp_path, pipe.unet)
    pipe.load_lora_weights(tmp_path)
    assert not latents(pipe).allclose(plain)
    assert latents(pipe, cross_attention_kwargs={"scale": 0.0}).allclose(plain)
    pipe.unload_lora_weights()
    assert latents(pipe).equal(plain)


def test_slices_of_the_vae(pipe: AudioToImagePipeline) -> None:
    whole = pipe(TOKENS, generator=torch.Generator().manual_seed(0), output_type="pt").images
    pipe.enable_vae_slicing()
    assert pipe.vae.use_slicing
    sliced = pipe(TOKENS, generator=torch.Generator().manual_seed(0), output_type="pt").images
    torch.testing.assert_close(sliced, whole)
    pipe.disable_vae_slicing()
    assert not pipe.vae.use_slicing


def test_from_pipe_shares_the_networks(pipe: AudioToImagePipeline, sd: Any) -> None:
    pipe.use_scheduler("ddim")
    pipe.guidance_scale = 3.0
    again = AudioToImagePipeline.from_pipe(pipe)
    assert again.unet is pipe.unet and again.encoder is pipe.encoder and again.scheduler is pipe.scheduler
    assert again.sd is not pipe.sd and (again.num_steps, again.guidance_scale) == (3, 3.0)
    assert latents(again).equal(latents(pipe))
    euler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    other = AudioToImagePipeline.from_pipe(sd, encoder=pipe.encoder, scheduler=euler)
    assert other.vae is sd.vae and other.scheduler is euler
    with pytest.raises(ValueError, match="needs an encoder"):
        AudioToImagePipeline.from_pipe(sd)


@pytest.mark.parametrize("kind", ["sequential", "model"])
def test_networks_may_be_offloaded(pipe: AudioToImagePipeline, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequentially, every weight is on the device "meta" between its uses."""
    import accelerate

    whole = pipe(TOKENS, generator=torch.Generator().manual_seed(0), text="a dog", output_type="pt").images
    if kind == "sequential":
        for network in (pipe.unet, pipe.text_encoder, pipe.vae):
            accelerate.cpu_offload(network, torch.device("cpu"), offload_buffers=True)
        assert pipe.text_encoder.device.type == "meta"
    else:
        hook = None
        for network in (pipe.text_encoder, pipe.unet, pipe.vae):
            _, hook = accelerate.cpu_offload_with_hook(network, torch.device("cpu"), hook)
    freed: list[bool] = []
    decode = type(pipe.vae).decode
    monkeypatch.setattr(pipe.sd, "maybe_free_model_hooks", lambda: freed.append(True))
    monkeypatch.setattr(type(pipe.vae), "decode", lambda *a, **k: (freed.clear(), decode(*a, **k))[1])
    made = pipe(TOKENS, generator=torch.Generator().manual_seed(0), text="a dog", output_type="pt").images
    torch.testing.assert_close(made, whole)
    assert freed  # after the last use of a network
    made = pipe(TOKENS, init_image=PICTURE, generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert made.isfinite().all() and freed


def test_nothing_given_is_not_taken_for_a_default(pipe: AudioToImagePipeline) -> None:
    for options, message in (
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1"),
        ({"prompt": ""}, "has no <"),
        ({"height": 0}, "height must be a multiple of 8, got 0"),
        ({"output_type": "jpg"}, "output_type must be pil, np, pt, latent, got 'jpg'"),
        ({"negative_prompt": ["a"]}, "1 negative prompts for 2 sounds"),
    ):
        with pytest.raises(ValueError, match=message):
            latents(pipe, **options)


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler"])
def test_two_call_schedulers_make_the_share_of_the_steps(pipe: AudioToImagePipeline, name: str) -> None:
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    calls: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    latents(pipe, init_image=PICTURE, strength=0.5, num_inference_steps=20)
    assert len(calls) == 19  # two in each of ten steps but the last


def test_what_cannot_be_had_is_refused(pipe: AudioToImagePipeline, tmp_path: Path) -> None:
    for call in (pipe.save_pretrained, pipe.push_to_hub, pipe.load_ip_adapter):
        with pytest.raises(NotImplementedError, match="^an AudioToImagePipeline "):
            call(str(tmp_path / "folder"))
    assert not any(tmp_path.iterdir())
    with pytest.raises(AttributeError):
        _ = pipe.no_such_thing


# Folders


@pytest.fixture
def model(
    exported: Path, formula_encoder: Callable[..., Any], in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of an exported folder in the working directory."""
    import sonolume.models.a2i.audiotoken.encoder as recipe

    monkeypatch.setattr(recipe, "load", lambda *_: formula_encoder())
    return Path(shutil.copytree(exported, in_folder / "my models" / "dog"))


def test_a_folder_relative_to_the_working_directory(model: Path) -> None:
    pipe = AudioToImagePipeline.from_pretrained("my models/dog", dtype=torch.bfloat16, safety_checker=None)
    assert type(pipe) is AudioToImagePipeline and pipe.unet.dtype == pipe.dtype == torch.bfloat16
    assert pipe.to("cpu") is pipe and isinstance(AudioToImagePipeline.from_pretrained(model), AudioToImagePipeline)


def test_folders_of_other_kinds(model: Path, tiny_checkpoint: Path, tiny_stable_diffusion: Path, root: Path) -> None:
    load = AudioToImagePipeline.from_pretrained
    for folder, message in (
        (tiny_checkpoint, "holds TextToAudioPipeline"),
        (tiny_stable_diffusion, "holds StableDiffusionPipeline"),
        (root / "pretrained/mini/im2wav", "holds a model of i2a/im2wav"),
        ("my models/dgo", "no such folder"),
        ("my models/dog/audio_to_image.json", "is a file"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
