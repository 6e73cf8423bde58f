"""wavy's encoder: hidden states of HuBERT, speech in the prompts of the pipeline, and recordings of the command."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from sonolume.bins import inference
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.a2i.sound_encoder import white_noise
from sonolume.models.s2i.wavy.encoder import SpeechVectors, WavyEncoder, load_images, load_vectors
from sonolume.models.s2i.wavy.hubert import Hubert, load_hubert
from sonolume.modules.audiotoken import inject
from sonolume.modules.speech_clip import TokenHead
from sonolume.utils import cli
from sonolume.utils.audio import SoundError
from sonolume.utils.image import open_image

HEADS = ["token", "sequence"]


def noise(seconds: float, seed: int = 0) -> Tensor:
    return torch.randn(round(seconds * 16000), generator=torch.Generator().manual_seed(seed)) / 10


WAVES = [noise(0.7), noise(1.3, 1), noise(0.7, 2)]


@pytest.fixture(scope="module")
def load_pipe(wavy_heads: SimpleNamespace) -> Callable[[str], AudioToImagePipeline]:
    """load_pipe(head): the exported folder as a pipeline, loaded once."""
    kept: dict[str, AudioToImagePipeline] = {}

    def load(head: str) -> AudioToImagePipeline:
        if head not in kept:
            kept[head] = AudioToImagePipeline.from_pretrained(getattr(wavy_heads, head))
            kept[head].set_progress_bar_config(disable=True)
        return kept[head]

    return load


def draw(pipe: AudioToImagePipeline, waves: list[Tensor], *seeds: int, **settings: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(waves))]
    return pipe(waves, generator=generators, num_inference_steps=2, output_type="np", **settings).images


def hubert_of(model: str, parts: SimpleNamespace) -> Hubert:
    return load_hubert(str(getattr(parts, model)), "model.speech_encoder.hubert")


@pytest.mark.parametrize("model", ["hubert", "base"])
def test_frames_are_those_of_transformers(wavy_parts: SimpleNamespace, model: str) -> None:
    hubert = hubert_of(model, wavy_parts)
    assert hubert.min_samples == 400 and (hubert.num_states, hubert.width) == (3, 16)
    lengths = [400, 719, 720, 1039, 1040, 16000, 102_400]
    for samples in lengths:
        frames = int(hubert.model._get_feat_extract_output_lengths(torch.tensor(samples)))  # type: ignore[arg-type]
        assert hubert.frames_of(samples) == frames
        states, found = hubert.layers([noise(samples / 16000)])
        assert states.shape == (1, 3, frames, 16) and found.tolist() == [frames]
    states, found = hubert.layers([noise(0.01)])
    assert states.shape == (1, 3, 1, 16) and found.tolist() == [1] and hubert.frames_of(160) == 1  # padded


@pytest.mark.parametrize("model", ["hubert", "base"])
def test_a_vector_does_not_depend_on_other_recordings(
    wavy_parts: SimpleNamespace, wavy_encoder: Path, model: str
) -> None:
    settings = json.loads((wavy_encoder / "audio_to_image.json").read_text())
    device = torch.device("cpu")
    vectors = load_vectors(wavy_encoder, settings | {"hubert": str(getattr(wavy_parts, model))}, device, torch.float32)
    waves = [*WAVES, noise(0.2, 3), *(noise(0.9, seed) for seed in range(4, 12))]
    found = vectors.encode(waves)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(12))
    for number, wave in enumerate(waves):
        torch.testing.assert_close(vectors.encode([wave])[0], found[number], rtol=1e-4, atol=1e-5)
    assert not found[0].allclose(found[2], atol=1e-3)
    images = load_images(wavy_encoder, settings, vectors, device, torch.float32)
    pictures = [Image.new("RGB", (40, 60), color) for color in ("red", "blue")]
    projected = vectors.speech_encoder.project_images(images.encode_images(pictures))
    assert projected.shape == (2, 8) == images.encode_texts(["a dog", "rain"]).shape
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(2))


def test_a_place_takes_all_tokens_of_a_recording(load_pipe: Callable[..., Any]) -> None:
    pipe = load_pipe("token")
    tokens = pipe.encode_audio(WAVES)
    assert tokens.shape == (3, 2, 32)
    tokenizer, encoder = pipe.sd.tokenizer, pipe.sd.text_encoder
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    letter = {one: tokenizer(one, add_special_tokens=False).input_ids[0] for one in "abc"}

    def states(places: list[Any], vectors: Tensor) -> Tensor:
        ids = [begin, *(letter.get(place, -1) for place in places), end]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        with torch.no_grad():
            return inject(encoder, torch.tensor([ids]), vectors, vectors.shape[1]).last_hidden_state[0]

    found, _ = pipe.encode_prompt(tokens, "a <*> b")
    torch.testing.assert_close(found[1], states(["a", 0, 1, "b"], tokens[1:2]))
    twice, _ = pipe.encode_prompt(tokens[:1], "<*> a <*>")
    torch.testing.assert_close(twice[0], states([0, 1, "a", 0, 1], torch.cat([tokens[:1], tokens[:1]], dim=1)))
    together, _ = pipe.encode_prompt(torch.cat([tokens[:1], tokens[2:]], dim=1), "<*> a <*> b")
    both = torch.cat([tokens[:1], tokens[2:]], dim=1)
    torch.testing.assert_close(together[0], states([0, 1, "a", 2, 3, "b"], both))
    with pytest.raises(ValueError, match="4 placeholders for 6 vectors"):
        pipe.encode_prompt(tokens.reshape(1, 6, 32), "<*> a <*>")


def test_states_stand_among_those_of_the_words(load_pipe: Callable[..., Any]) -> None:
    pipe = load_pipe("sequence")
    states = pipe.encode_audio(WAVES)
    assert states.shape == (3, 5, 32)
    alone, negative = pipe.encode_prompt(WAVES)
    assert alone.shape == negative.shape == (3, 6, 32)
    torch.testing.assert_close(alone[:, 1:], states)
    words = pipe.encode_texts(["a b"], 77)[0]
    torch.testing.assert_close(pipe.encode_prompt(states[:1], "a <*> b")[0][0],
                               torch.cat([words[:2], states[0], words[2:4]]))  # fmt: skip
    both = torch.cat([states[:1], states[1:2]], dim=1)
    found = pipe.encode_prompt(both, "<*> a <*>")[0][0]
    assert found.shape == (13, 32)
    torch.testing.assert_close(found[[*range(1, 6), *range(7, 12)]], both[0])


@pytest.mark.parametrize("head", HEADS)
def test_pictures_of_speech(load_pipe: Callable[..., Any], head: str) -> None:
    """Each setting changes the picture, and a picture does not depend on its batch."""
    pipe = load_pipe(head)
    assert pipe.guidance_scale == 3.0
    plain = draw(pipe, WAVES)
    alone = draw(pipe, WAVES[1:2], 1)
    np.testing.assert_allclose(alone[0], plain[1], atol=1e-5)
    np.testing.assert_array_equal(draw(pipe, WAVES), plain)
    changed: list[dict[str, Any]] = [
        {"prompt": "a painting of <*>"}, {"prompt": "<*> and <*>"}, {"text": "a dog", "mix": 0.5},
        {"audio_strength": 0.0}, {"audio_strength": 2.0}, {"negative_prompt": "a dog"},
        {"negative_sounds": [noise(1, 9)]}, {"negative_sounds": [white_noise(pipe.encoder, 0)[:16000]]},
        {"init_image": Image.new("RGB", (32, 32), "red"), "strength": 0.9}, {"guidance_scale": 6.0},
    ]  # fmt: skip
    pictures = [plain[:1], draw(pipe, WAVES[:1], 5), *(draw(pipe, WAVES[:1], 0, **one) for one in changed)]
    for number, one in enumerate(pictures):
        for other in pictures[:number]:
            assert np.abs(one - other).max() > 1e-6, (number, changed[number - 2])


@pytest.mark.parametrize("head", HEADS)
def test_the_strength_of_the_speech(load_pipe: Callable[..., Any], head: str) -> None:
    pipe = load_pipe(head)
    prompt = "a <*> b"
    full, _ = pipe.encode_prompt(WAVES[:1], prompt)
    none, _ = pipe.encode_prompt(WAVES[:1], prompt, audio_strength=0)
    double, _ = pipe.encode_prompt(WAVES[:1], prompt, audio_strength=2)
    torch.testing.assert_close(none, pipe.encode_texts(["a b"], full.shape[1]))
    torch.testing.assert_close(double, none + 2 * (full - none), rtol=1e-4, atol=1e-5)
    mixed, _ = pipe.encode_prompt(WAVES[:1], prompt, text="a dog", mix=0.25)
    torch.testing.assert_close(mixed, 0.75 * full + 0.25 * pipe.encode_texts(["a dog"], full.shape[1]))


def test_speech_is_read_whole(load_pipe: Callable[..., Any]) -> None:
    pipe = load_pipe("token")
    long = noise(29.9)
    assert pipe.encoded_seconds(long) == [(0, 29.9)]
    with pytest.raises(SoundError, match="speech.wav: 30.1 s long, at most 30 s are encoded: --span START-END chooses"):
        pipe.encoded_seconds(noise(30.1), name="speech.wav")
    with pytest.raises(SoundError, match=r"sound 1: 0.090 s long, at least 0.1 s"):
        pipe.encode_audio([noise(0.1), noise(0.09)])
    assert pipe.encode_audio([noise(0.1)]).shape == (1, 2, 32)
    end = torch.cat([noise(0.5), torch.zeros(8000)])
    assert pipe.encoded_seconds(end) == [(0, 1)]


def test_networks_of_other_sizes(wavy_parts: SimpleNamespace, wavy_encoder: Path) -> None:
    settings = json.loads((wavy_encoder / "audio_to_image.json").read_text())
    vectors = load_vectors(wavy_encoder, settings, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="trained on vectors of width 9, this speech encoder makes 8"):
        WavyEncoder(vectors, TokenHead(9, 32), "<*>")
    hubert = hubert_of("hubert", wavy_parts)
    hubert.num_states = 13
    with pytest.raises(ValueError, match="12 layers of width 16, the speech encoder was trained on 2 of width 16"):
        SpeechVectors(hubert, vectors.speech_encoder)


def test_recordings_of_any_form(wavy_heads: SimpleNamespace, root: Path, in_folder: Path, capsys: Any) -> None:
    """8 kHz, stereo, 24 bit and flac, in a folder with a space in its name; sidecars name what was encoded."""
    wave = noise(1.0).numpy()
    files = {"eight.wav": (wave[::2], 8000, "PCM_16"), "stereo.wav": (np.stack([wave, wave / 2], 1), 16000, "PCM_24"),
             "studio.flac": (np.repeat(wave, 3), 48000, "PCM_16")}  # fmt: skip
    for name, (samples, rate, kind) in files.items():
        soundfile.write(in_folder / name, samples, rate, kind)
    argv = ["--config", str(root / "egs/s2i/wavy/tiny.json"), "--checkpoint", str(wavy_heads.token), "--num_steps", "2",
            "--device", "cpu", "--output_dir", "out", *(f"--audio={name}" for name in files)]  # fmt: skip
    assert cli.run(inference.main, argv) == 0
    drawn = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in drawn] == ["eight_0.png", "stereo_0.png", "studio_0.png"]
    for path, name in zip(drawn, files, strict=True):
        sidecar = json.loads(path.with_suffix(".json").read_text())
        assert sidecar["audio"] == name and sidecar["encoded_seconds"] == [[0, 1]]
        assert sidecar["prompt"] == "a photo of <*>" and open_image(path).size == (32, 32)
    flags = ["--together", "--prompt", "<*> with <*> and <*>", "--text", "a dog", "--mix", "0.3", "--seed", "3"]
    assert cli.run(inference.main, [*argv, *flags]) == 0
    (one,) = capsys.readouterr().out.splitlines()
    assert json.loads(Path(one).with_suffix(".json").read_text())["audio"] == list(files)
