"""Parts become one pipeline that samples as the official code does; parts that do not fit are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from sonolume.bins import inference
from sonolume.models.convert import amphion, assemble, layout
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.hifigan import model as hifigan
from sonolume.utils import audio, cli
from sonolume.utils.errors import UserError

TEXT = "a man is whistling"


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A T5 of the width that the small official U-Net takes."""
    folder = tmp_path_factory.mktemp("text") / "t5"
    torch.manual_seed(0)
    config = T5Config(vocab_size=384, d_model=24, d_kv=8, d_ff=8, num_layers=1, num_heads=1)
    T5EncoderModel(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def given(published: Path, text_encoder: str) -> dict[str, str]:
    return layout.published(published, "4_10_78") | {"text_encoder": text_encoder}


@pytest.fixture(scope="module")
def assembled(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assembled") / "pipeline"
    assemble.text_to_audio(folder, given)
    return folder


def refused(message: str, folder: Path, given: dict[str, str]) -> None:
    with pytest.raises(UserError, match=message) as caught:
        assemble.text_to_audio(folder, given)
    assert "\n" not in str(caught.value) and not folder.exists()


def test_the_published_files_sample_as_the_official_code(
    goldens: SimpleNamespace, assembled: Path, monkeypatch: pytest.MonkeyPatch
):
    """From training checkpoints to the wave; the text's states are the golden file's."""
    golden = goldens.golden("sampler_4_10_78_small")
    pipe = TextToAudioPipeline.from_pretrained(assembled)
    pipe.set_progress_bar_config(disable=True)
    assert (type(pipe.scheduler).__name__, pipe.config.num_steps) == ("UniPCMultistepScheduler", 20)
    assert pipe.use_preset("reference") == 200
    unconditional, conditional = goldens.input_for("sampler.ctx.24", (2, 7, 24)).split(1)
    encode = lambda texts, length=0: (unconditional if texts == [""] else conditional, None)  # noqa: E731
    monkeypatch.setattr(pipe, "encode_text", encode)
    noise = goldens.input_for("sampler.noise.10x78", (1, 4, 10, 78))
    latents = pipe(TEXT, num_inference_steps=6, guidance_scale=4.0, latents=noise, output_type="latent").audios
    assert pipe.scheduler.timesteps.tolist() == golden["ts"].tolist()
    goldens.assert_close(latents, golden["latents"][-1], 1e-4)
    with torch.no_grad():
        mel = pipe.decode_latents(latents)
        wave = (pipe.vocode(mel)[0] * 32768).to(torch.int16)
    goldens.assert_close(mel[..., ::4], golden["mel"][0], 5e-5)
    assert (wave.int() - golden["wav"].int()).abs().max() <= 1


def test_the_text_reaches_it_unmasked_as_in_the_official_code(assembled: Path, monkeypatch: pytest.MonkeyPatch):
    """The empty prompt is padded to the prompt's length, and nothing is masked."""
    pipe = TextToAudioPipeline.from_pretrained(assembled)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.text_mask is False
    encoded, denoised = [], []
    encode, denoise = pipe.text_encoder.forward, pipe.unet.forward

    def record_text(ids: Any, attention_mask: Any = None) -> Any:
        encoded.append((ids, attention_mask))
        return encode(ids, attention_mask)

    def record_unet(x: Any, t: Any, states: Any, **options: Any) -> Any:
        denoised.append(options)
        return denoise(x, t, states, **options)

    monkeypatch.setattr(pipe.text_encoder, "forward", record_text)
    monkeypatch.setattr(pipe.unet, "forward", record_unet)
    pipe(TEXT, num_inference_steps=1, output_type="latent")
    assert all(mask is None for _, mask in encoded) and denoised[0]["encoder_attention_mask"] is None
    ids = torch.cat([ids for ids, _ in encoded])
    assert [1] + [0] * len(TEXT) in ids.tolist()  # the empty text: its end, then padding


def test_generating_from_the_command_line(assembled: Path, root: Path, in_folder: Path):
    flags = ["--checkpoint", str(assembled), "--text", TEXT, "--num_steps", "1", "--output_dir", "out"]
    assert cli.run(inference.main, ["--config", str(root / "egs/tta/audioldm/exp_config.json"), *flags]) == 0
    (wav,) = Path("out").glob("*.wav")
    assert len(audio.load(wav, 16000)) == 624 * 256
    assert "SpeechT5HifiGan" in wav.with_suffix(".json").read_text()


def test_by_way_of_folders_it_is_the_same(given: dict[str, str], assembled: Path, tmp_path: Path):
    for network, part in (("vae", "vae"), ("audioldm", "unet"), ("hifigan", "vocoder")):
        amphion.convert(network, Path(given[part]), tmp_path / part)
    folders = {part: str(tmp_path / part) for part in ("vae", "unet", "vocoder")}
    assemble.text_to_audio(tmp_path / "pipeline", given | folders)
    weights = sorted(path.relative_to(assembled) for path in assembled.rglob("*.safetensors"))
    assert len(weights) == 4
    for path in weights:
        assert (tmp_path / "pipeline" / path).read_bytes() == (assembled / path).read_bytes()
    one, two = (json.loads((root / "model_index.json").read_text()) for root in (assembled, tmp_path / "pipeline"))
    assert one == two and one["frames"] == 624 and one["mel"]["hop_size"] == 256
    assert not [path for path in assembled.rglob("*") if path.suffix in (".pt", ".bin", ".ckpt", ".pkl")]


def test_choices(given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """text_mask, preset and the absence of a vocoder."""
    without = {part: source for part, source in given.items() if part != "vocoder"}
    assemble.text_to_audio(tmp_path / "pipeline", without | {"text_mask": "true", "preset": "reference"})
    printed = capsys.readouterr().err
    assert "vocoder: none given" in printed and "text_mask: true" in printed
    assert f"unet: {given['unet']}" in printed
    pipe = TextToAudioPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.vocoder is None and pipe.config.text_mask is True
    assert (type(pipe.scheduler).__name__, pipe.config.num_steps) == ("PNDMScheduler", 200)


def test_a_pipeline_trained_here_comes_apart_and_together_again(make_pipeline: Callable[..., Any], tmp_path: Path):
    """Its own text mask, noise schedule, objective and latent normalisation are kept."""
    pipe = make_pipeline("v_prediction")
    pipe.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    pipe.save_pretrained(tmp_path / "old")
    old = str(tmp_path / "old")
    for unet in (old, f"{old}/unet"):
        again = tmp_path / f"again_{len(unet)}"
        assemble.text_to_audio(again, {"vae": f"{old}/vae", "unet": unet, "text_encoder": old})
        new = TextToAudioPipeline.from_pretrained(again)
        for one in (pipe, new):
            one.set_progress_bar_config(disable=True)
        waves = [
            one(TEXT, num_inference_steps=3, generator=torch.Generator().manual_seed(1)).audios for one in (pipe, new)
        ]
        np.testing.assert_array_equal(*waves)
        assert new.config.text_mask is True and new.config.frames == 32 and new.objective == "v_prediction"
    other = make_pipeline()
    other.save_pretrained(tmp_path / "other")
    refused("was trained with latents_mean", tmp_path / "x", {
        "vae": str(tmp_path / "other"), "unet": old, "text_encoder": old,
    })  # fmt: skip


def test_parts_that_do_not_fit(
    given: dict[str, str], published: Path, tiny_checkpoint: Path, tmp_path: Path, make_pipeline: Callable[..., Any]
):
    out, tiny = tmp_path / "x", str(tiny_checkpoint)
    refused("was trained on latents 4_10_78, the autoencoder .* makes 4_5_39", out,
            given | {"vae": str(published / "autoencoder_kl_debug")})  # fmt: skip
    refused("takes text states of width 24, .* gives 16", out, given | {"text_encoder": tiny})
    refused(r"this is Amphion's autoencoder \(amphion-vae\), not Amphion's U-Net", out, given | {"unet": given["vae"]})
    refused("text_mask=yes: must be true or false", out, given | {"text_mask": "yes"})
    refused("preset: no preset 'slow'", out, given | {"preset": "slow"})
    refused("vae absent/x/y: no such folder", out, given | {"vae": "absent/x/y"})
    refused("unet no/such: the settings of its training are unknown", out, given | {"unet": "no/such"})
    pipe = make_pipeline()
    pipe.unet.save_pretrained(tmp_path / "unet")
    refused("settings of its training are unknown", out, given | {"unet": str(tmp_path / "unet")})
    pipe.vae.save_pretrained(tmp_path / "vae")
    refused("no mel.json in it, so its mel settings are unknown", out, given | {"vae": str(tmp_path / "vae")})


def test_a_vocoder_of_other_mels(given: dict[str, str], tmp_path: Path):
    run = Path(given["vocoder"]).parent
    shutil.copytree(run, tmp_path / "run")
    settings = json.loads((run / "config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps(settings | {"fmax": 7600}))
    message = "fmax 7600.* 8000"
    refused(message, tmp_path / "x", given | {"vocoder": str(tmp_path / "run")})
    amphion.convert("hifigan", tmp_path / "run/g_01250000", tmp_path / "vocoder")
    assert hifigan.load(str(tmp_path / "vocoder"), "vocoder").config.model_in_dim == 80
    refused(message, tmp_path / "x", given | {"vocoder": str(tmp_path / "vocoder")})


@pytest.mark.parametrize("key", ["refine", "polish"])
def test_a_vocoder_keeps_its_refinement(tiny_checkpoint: Path, published: Path, tmp_path: Path, key: str):
    """Under today's key and the one of older pipelines."""
    shutil.copytree(tiny_checkpoint, tmp_path / "old")
    amphion.convert("hifigan", published / "hifigan_checkpoints/g_01250000", tmp_path / "old/vocoder")
    index = json.loads((tmp_path / "old/model_index.json").read_text())
    index = {name: value for name, value in index.items() if name not in ("polish", "refine")} | {key: 7}
    index["vocoder"] = ["transformers", "SpeechT5HifiGan"]
    (tmp_path / "old/model_index.json").write_text(json.dumps(index))
    old = str(tmp_path / "old")
    assemble.text_to_audio(tmp_path / "new", {"vae": old, "unet": old, "text_encoder": old, "vocoder": old})
    made = json.loads((tmp_path / "new/model_index.json").read_text())
    assert made.get("refine", made.get("polish")) == 7
