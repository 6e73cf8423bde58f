"""audio2img's encoder: its lengths, the prompts around its states, and the folders that it accepts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer, Wav2Vec2BertConfig, Wav2Vec2BertModel

from sonolume.models.a2i import loading
from sonolume.models.a2i.audio2img.encoder import RECIPE, Audio2ImgEncoder, FeatureExtractor, load, save, states_of
from sonolume.models.a2i.pipeline import SETTINGS_FILE, AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import white_noise
from sonolume.utils.errors import UserError

CPU = torch.device("cpu")
SECOND = torch.randn(16000, generator=torch.Generator().manual_seed(0)) / 10


def build(width: int = 32, **settings: Any) -> Wav2Vec2BertModel:
    """The network of keys.json: two layers of width 32."""
    sizes: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "output_hidden_size": width, "add_adapter": True, "num_adapter_layers": 2, "layerdrop": 0.0,
    }  # fmt: skip
    torch.manual_seed(0)
    return Wav2Vec2BertModel(Wav2Vec2BertConfig(**sizes | settings)).eval()


@pytest.fixture(scope="module")
def encoder() -> Audio2ImgEncoder:
    return Audio2ImgEncoder(build())


@pytest.fixture(scope="module")
def text(tiny_stable_diffusion: Path) -> tuple[Any, Any]:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_stable_diffusion / "tokenizer")
    return tokenizer, CLIPTextModel.from_pretrained(tiny_stable_diffusion / "text_encoder").eval()


def test_names_and_lengths_are_the_official_ones(root: Path) -> None:
    folder = root / "tests" / "goldens" / "audio2img"
    names = json.loads((folder / "keys.json").read_text())["audio"]
    assert {name: list(weight.shape) for name, weight in build().state_dict().items()} == names
    lengths = {46: 12, 94: 24, 188: 47, 300: 75, 301: 76, 304: 76, 305: 77, 308: 77, 376: 94}
    assert {length: states_of(length, build().config) for length in lengths} == lengths


@pytest.mark.parametrize(
    ("seconds", "layers", "features", "states"), [(3.775, 2, 188, 47), (6.095, 2, 304, 76), (12.175, 3, 608, 76)]
)
def test_windows(seconds: float, layers: int, features: int, states: int) -> None:
    encoder = Audio2ImgEncoder(build(num_adapter_layers=layers), window=seconds)
    assert (encoder.extract.length, encoder.num_tokens) == (features, states)
    window = torch.randn(round(seconds * 16000), generator=torch.Generator().manual_seed(0))
    found, mask = encoder.extract([window, window.repeat(2)])
    assert found.shape == (2, features, 160) and mask.sum(dim=1).tolist() == [features, features]
    assert encoder.encode_audio([window]).shape == (1, states, 32)


def test_padding_is_ignored_unless_the_preset_is_the_published_one(encoder: Audio2ImgEncoder) -> None:
    found = encoder.encode_audio([SECOND])
    features, mask = encoder.extract([SECOND])
    features[:, int(mask.sum()) :] = 7.0
    other = encoder.model(features, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(other, found)
    encoder.use_preset("reference")
    assert not torch.allclose(encoder.encode_audio([SECOND]), found)
    encoder.use_preset("balanced")
    torch.testing.assert_close(encoder.encode_audio([SECOND]), found)
    torch.testing.assert_close(encoder.encode_audio([SECOND, SECOND.flip(0)])[:1], found)


def test_the_published_preset_reads_the_beginning_of_a_normalised_sound(
    encoder: Audio2ImgEncoder, tiny_stable_diffusion: Path
) -> None:
    pipe = AudioToImagePipeline(encoder, loading.load_stable_diffusion(str(tiny_stable_diffusion), "x", torch.float32))
    long = torch.cat([SECOND.repeat(5), 2 * SECOND])
    assert pipe.encoded_seconds(long) == [(2.225, 6.0)]
    pipe.use_preset("reference")
    assert pipe.encoded_seconds(long) == [(0.0, 3.775)]
    torch.testing.assert_close(pipe.encode_audio([long]), encoder.encode_audio([long]))
    pipe.use_preset("balanced")


def test_the_sound_alone_follows_the_start_state(encoder: Audio2ImgEncoder, text: tuple[Any, Any]) -> None:
    tokens = torch.randn(2, 47, 32)
    found = encoder.encode_prompt(tokens, ["<*>", " <*> "], *text)
    tokenizer, text_encoder = text
    start = text_encoder(tokenizer("", return_tensors="pt").input_ids).last_hidden_state[:, :1]
    torch.testing.assert_close(found, torch.cat([start.expand(2, -1, -1), tokens], dim=1))


def test_words_around_the_sound(encoder: Audio2ImgEncoder, text: tuple[Any, Any]) -> None:
    tokens, (tokenizer, text_encoder) = torch.randn(2, 94, 32), text
    ids = tokenizer("a b c d", padding="max_length", return_tensors="pt").input_ids
    states = text_encoder(ids).last_hidden_state[0]
    found = encoder.encode_prompt(tokens[:, :47], ["a b <*> c d", "<*>"], *text)
    expected = torch.cat([states[:3], tokens[0, :47], states[3:6]])  # with the end state
    assert found.shape == (2, 53, 32)
    torch.testing.assert_close(found[0], expected)
    padding = text_encoder(tokenizer("", padding="max_length", return_tensors="pt").input_ids).last_hidden_state[0, 1:6]
    torch.testing.assert_close(found[1], torch.cat([found[1, :1], tokens[1, :47], padding]))

    two = encoder.encode_prompt(tokens[:1], ["a <*> b <*> c d"], *text)[0]
    torch.testing.assert_close(two, torch.cat([states[:2], tokens[0, :47], states[2:3], tokens[0, 47:], states[3:6]]))
    again = encoder.encode_prompt(tokens[:1, :47], ["<*> <*>"], *text)[0]
    torch.testing.assert_close(again[1:], tokens[0, :47].repeat(2, 1))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("no place", "0 places"),
        ("<*> <*>", "2 places <.*> for 3"),
        ("a " * 80 + "<*>", "80 tokens, the text encoder reads 75"),
    ],
)
def test_prompts_that_do_not_fit(encoder: Audio2ImgEncoder, text: tuple[Any, Any], prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.encode_prompt(torch.zeros(1, 141 if prompt == "<*> <*>" else 47, 32), [prompt], *text)


def test_pictures_of_a_sound(encoder: Audio2ImgEncoder, tiny_stable_diffusion: Path) -> None:
    sd = loading.load_stable_diffusion(str(tiny_stable_diffusion), "x", torch.float32)
    sd.set_progress_bar_config(disable=True)
    pipe = AudioToImagePipeline(encoder, sd)
    states, negative = pipe.encode_prompt([SECOND])
    assert states.shape == negative.shape == (1, 48, 32)
    states, negative = pipe.encode_prompt([SECOND], "a <*> b", negative_sounds=[white_noise(encoder, 0)])
    assert states.shape == negative.shape == (1, 51, 32)
    output = pipe([SECOND, SECOND], num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    assert [picture.size for picture in output.images] == [(32, 32)] * 2


def test_an_exported_folder(encoder: Audio2ImgEncoder, tmp_path: Path) -> None:
    save(tmp_path, encoder.model, encoder.extract, {"stable_diffusion": "x", "prompt": "a <*>", "window": 6.095})
    settings = json.loads((tmp_path / SETTINGS_FILE).read_text())
    found = load(tmp_path, settings, CPU, torch.float32)
    assert (found.prompt, found.window, found.num_tokens) == ("a <*>", 6.095, 76)
    torch.testing.assert_close(found.model(*encoder.extract([SECOND])).last_hidden_state,
                               encoder.model(*encoder.extract([SECOND])).last_hidden_state)  # fmt: skip
    assert Wav2Vec2BertModel.from_pretrained(tmp_path).config.num_adapter_layers == 2  # a plain transformers folder


def test_a_published_folder_has_no_settings(tmp_path: Path) -> None:
    build(width=1024).save_pretrained(tmp_path)
    folder, settings = loading.read_settings(str(tmp_path), ["a2i/audiotoken", RECIPE], "--checkpoint")
    assert folder == tmp_path and "stable-diffusion-2" in settings["stable_diffusion"]
    found = load(folder, settings, CPU, torch.float32)
    assert (found.prompt, found.window, found.width) == ("<*>", 3.775, 1024)
    build(width=32).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="width 32, expected 768 .* or 1024"):
        loading.read_settings(str(tmp_path), [RECIPE], "--checkpoint")


def test_folders_that_do_not_serve(tmp_path: Path) -> None:
    build(add_adapter=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no adapter"):
        load(tmp_path, {}, CPU, torch.float32)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut or damaged"):
        load(tmp_path, {}, CPU, torch.float32)


def test_features_are_padded_with_one() -> None:
    features, mask = FeatureExtractor()([SECOND])
    assert features.shape == (1, 188, 160) and mask.sum() == 49 and bool((features[0, 50:] == 1).all())
