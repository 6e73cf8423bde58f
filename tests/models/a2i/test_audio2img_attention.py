"""audio2img's head attention: the pipeline around it, its exported folder, and both encoders that it can build on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from sonolume.bins import preprocess
from sonolume.config.load import load_config
from sonolume.models.a2i import loading
from sonolume.models.a2i.audio2img import encoder as audio2img
from sonolume.models.a2i.audio2img.attention_encoder import AttentionEncoder, load_sound_states, save
from sonolume.models.a2i.audio2img.data import training_data
from sonolume.models.a2i.audio2img.task import build_task, load_frozen
from sonolume.models.a2i.pipeline import SETTINGS_FILE, AudioToImagePipeline
from sonolume.models.training import step_draws
from sonolume.modules.decoupled_attention import AudioAttention, cross_attention_sizes
from sonolume.utils import cli
from sonolume.utils.errors import ConfigError, UserError

SECONDS, CPU = 1.0, torch.device("cpu")
WAVES = list(torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)) / 10)


@pytest.fixture(scope="module")
def sd(tiny_stable_diffusion: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_stable_diffusion)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def make(sd: Any) -> Callable[..., Any]:
    """make(trained=True, source="pretrained/mini/audiotoken"): a pipeline with the features of that encoder."""

    def build(trained: bool = True, source: str = "pretrained/mini/audiotoken") -> Any:
        sounds = load_sound_states(source)
        states = sounds(torch.zeros(1, round(SECONDS * 16000))).shape[1:]
        torch.manual_seed(1)
        head: Any = AudioAttention(cross_attention_sizes(sd.unet), 32, 77, *states)
        for projection in head.projections if trained else ():
            torch.nn.init.normal_(projection.to_v.weight, std=0.5)
        return AudioToImagePipeline(AttentionEncoder(sounds, head.eval(), "a dog <*>", SECONDS), sd)

    return build


def draw(pipe: Any, *args: Any, **settings: Any) -> np.ndarray:
    """Pictures (B, H, W, 3), each from its own noise."""
    noise = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return pipe(*args, generator=noise, num_inference_steps=2, output_type="np", **settings).images


@pytest.mark.parametrize("init", [False, True])
def test_a_fresh_head_draws_what_stable_diffusion_draws_of_the_words(make: Callable[..., Any], init: bool):
    pipe = make(trained=False)
    more = {"init_image": Image.effect_mandelbrot((32, 32), (-2, -1, 1, 1), 30).convert("RGB")} if init else {}
    words = pipe.encode_texts(["a dog", "a dog"], 77)
    assert np.array_equal(draw(pipe, WAVES, **more), draw(pipe, prompt_embeds=words, **more))


def test_guidance_leaves_the_negative_half_to_stable_diffusion(make: Callable[..., Any]):
    pipe, calls = make(), []

    def record(_: Any, inputs: Any, keywords: Any, output: Any) -> None:
        calls.append((*inputs, keywords["encoder_hidden_states"], output[0]))

    hook = pipe.sd.unet.register_forward_hook(record, with_kwargs=True)
    try:
        draw(pipe, WAVES, negative_prompt="rain")
    finally:
        hook.remove()
    noisy, time, states, predicted = calls[0]
    length = pipe.encoder.num_tokens
    assert states.shape == (4, 77 + length, 32) and not states[:2, 77:].any() and states[2:, 77:].any(dim=2).all()
    stock = pipe.sd.unet(noisy, time, states[:, :77]).sample.detach()
    torch.testing.assert_close(predicted[:2], stock[:2], rtol=0, atol=1e-6)
    assert (predicted[2:] - stock[2:]).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_strength_mix_and_negative_sounds(make: Callable[..., Any]):
    pipe = make()
    tokens = pipe.encode_audio(WAVES)
    trained, negative = pipe.encode_prompt(tokens)
    for strength in (0.0, 0.5, 2.0):
        states, _ = pipe.encode_prompt(tokens, audio_strength=strength)
        torch.testing.assert_close(states[:, :77], trained[:, :77])
        torch.testing.assert_close(states[:, 77:], strength * tokens)
    mixed, _ = pipe.encode_prompt(tokens, text="rain", mix=0.25)
    torch.testing.assert_close(mixed[:, 77:], 0.75 * tokens)
    assert not negative[:, 77:].any()
    _, negative = pipe.encode_prompt(tokens, negative_sounds=tokens[1:])
    torch.testing.assert_close(negative[0, 77:], tokens[1])
    words = pipe.encode_texts(["a dog", "a dog"], 77)
    assert np.array_equal(draw(pipe, tokens, audio_strength=0.0), draw(pipe, prompt_embeds=words))


def test_prompts(make: Callable[..., Any]):
    pipe = make()
    tokens = pipe.encode_audio(WAVES)
    together = torch.cat(list(tokens))[None]                                     # (1, 2 K, D)
    assert draw(pipe, together.expand(2, -1, -1), prompt="<*> in <*>").shape == (2, 32, 32, 3)
    for sounds, prompt in ((tokens, "a dog"), (together, "<*>"), (together, "<*> <*> <*>")):
        with pytest.raises(ValueError, match=r"has \d places <\*> for \d sounds"):
            pipe.encode_prompt(sounds, prompt)
    with pytest.raises(ValueError, match="shorten it"):
        pipe.encode_prompt(tokens, "<*> " + "a" * 80)


def test_a_short_sound_is_repeated_as_in_training(make: Callable[..., Any]):
    pipe, wave = make(), WAVES[0][:6000]
    whole = torch.cat([wave, wave, wave[:4000]])
    torch.testing.assert_close(pipe.encode_audio([wave]), pipe.encode_audio([whole]))


def export(pipe: Any, folder: Path, stable_diffusion: Path, source: str = "pretrained/mini/audiotoken") -> Path:
    settings = {"stable_diffusion": str(stable_diffusion), "sound_encoder": source, "prompt": "a dog <*>"}
    save(folder, pipe.encoder.head, settings | {"guidance_scale": 3.0, "window": SECONDS})
    return folder


def test_an_exported_folder_comes_back(make: Callable[..., Any], tiny_stable_diffusion: Path, tmp_path: Path):
    pipe = make()
    export(pipe, tmp_path / "run", tiny_stable_diffusion)
    content = json.loads((tmp_path / "run" / SETTINGS_FILE).read_text())
    assert (content["recipe"], content["head"]) == ("a2i/audio2img", "attention")
    again, _ = loading.load(str(tmp_path / "run"), "a2i/audio2img", "cpu")
    again.sd.set_progress_bar_config(disable=True)
    assert again.guidance_scale == 3.0 and again.encoder.prompt == "a dog <*>"
    assert np.array_equal(draw(again, WAVES, guidance_scale=5.0), draw(pipe, WAVES, guidance_scale=5.0))
    other = AudioToImagePipeline.from_pipe(again)
    assert np.array_equal(draw(other, WAVES, guidance_scale=5.0), draw(pipe, WAVES, guidance_scale=5.0))


def test_what_does_not_fit_is_refused(
    make: Callable[..., Any], build_stable_diffusion: Callable[..., Path], tiny_stable_diffusion: Path, tmp_path: Path
):
    pipe, folder = make(), tmp_path / "run"
    export(pipe, folder, tiny_stable_diffusion)
    other = str(build_stable_diffusion(tmp_path / "sd", width=48))
    with pytest.raises(UserError, match="the text encoder of this Stable Diffusion 48"):
        loading.load(str(folder), "a2i/audio2img", "cpu", stable_diffusion=other)
    with pytest.raises(UserError, match="trained with the head attention"):
        load_sound_states(str(folder))
    content = json.loads((folder / SETTINGS_FILE).read_text())
    without_window = {name: value for name, value in content.items() if name != "window"}
    (folder / SETTINGS_FILE).write_text(json.dumps(without_window))
    with pytest.raises(UserError, match="window missing"):
        loading.load(str(folder), "a2i/audio2img", "cpu")
    (folder / SETTINGS_FILE).write_text(json.dumps(content))
    shutil.rmtree(folder / "attention")
    with pytest.raises(UserError, match="attention"):
        loading.load(str(folder), "a2i/audio2img", "cpu")


def test_states_of_audio2img_need_no_projection(make: Callable[..., Any], tmp_path: Path):
    """Where the states have the width of the text, keys and values are all that is trained, as in MACS."""
    torch.manual_seed(0)
    model = Wav2Vec2BertModel(
        Wav2Vec2BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, output_hidden_size=32,
            add_adapter=True, num_adapter_layers=2,
        )
    ).eval()  # fmt: skip
    settings = {"stable_diffusion": "unused", "prompt": "<*>", "window": SECONDS}
    audio2img.save(tmp_path / "run", model, audio2img.FeatureExtractor(window=SECONDS), settings)
    pipe = make(source=str(tmp_path / "run"))
    assert {name.split(".")[0] for name, _ in pipe.encoder.head.named_parameters()} == {"projections"}
    tokens = pipe.encode_audio(WAVES)
    encoder = audio2img.load(tmp_path / "run", settings, CPU, torch.float32)
    torch.testing.assert_close(tokens, encoder.encode_audio(WAVES))
    pictures = draw(pipe, tokens)
    assert np.isfinite(pictures).all() and not np.array_equal(pictures[0], pictures[1])


def test_training_sees_the_same_states_with_and_without_a_cache(root: Path, tmp_path: Path):
    """The text is the prompt's words or a caption; only the head is trained, and a gradient reaches all values."""
    argv = ["--config", str(root / "egs/a2i/audio2img/tiny_attention.json")]
    argv += [f"preprocess.processed_dir='{tmp_path}'", "preprocess.num_workers=0", "train.precision=32-true"]
    argv += ["preprocess.miniworld.train_scenes=4", "preprocess.miniworld.valid_scenes=2", "train.accelerator=cpu"]
    assert cli.run(preprocess.main, argv) == 0
    losses, texts = [], []
    for overrides in ([], ["preprocess.cache_features=false"], ["model.caption_share=0.999"]):
        config: Any = load_config(Path(argv[1]), [*argv[2:], *overrides])
        frozen = load_frozen(config)
        data, task = training_data(config, frozen), build_task(config, frozen)
        batch = data.collate([data.train[0, index] for index in range(4)])
        loss = task.loss(batch, step_draws(0, 0, 4))
        losses.append(loss.item())
        texts.append(frozen["sd"].tokenizer.batch_decode(batch.ids, skip_special_tokens=True))
    loss.backward()
    named = dict(task.named_parameters())
    assert all(name.startswith("head.") for name in named)
    assert all(weight.grad.any() for name, weight in named.items() if name.endswith("to_v.weight"))  # type: ignore[union-attr]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] != pytest.approx(losses[2], rel=1e-3)
    assert texts[0] == texts[1] == [""] * 4
    assert [text.replace(" ,", ",") for text in texts[2]] == [row.captions[0].lower() for row in data.train.rows]
    config.preprocess.input_length = 5.0
    with pytest.raises(UserError, match="input_length 5.*2.56 s at once"):
        load_frozen(config)


def test_the_config_names_the_encoder(root: Path):
    file = root / "egs/a2i/audio2img/tiny_attention.json"
    with pytest.raises(ConfigError, match="model.sound_encoder"):
        load_config(file, ["model.sound_encoder=''"])
    with pytest.raises(ConfigError, match="model.caption_share"):
        load_config(file, ["model.caption_share=1.5"])
