from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig, T5Config, T5EncoderModel

from sonolume.config.tta.audioldm import AudioLDMConfig, NoiseSchedulerConfig
from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
from sonolume.models.convert.amphion import hifigan_weights, unet_weights, vae_weights
from sonolume.models.tta.audioldm.components import TextEncoder, build_unet, noise_settings
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.models.tta.autoencoderkl.model import build
from sonolume.modules.griffin_lim import mel_to_wave
from sonolume.modules.mel import MelSpectrogram
from sonolume.modules.sampling import PRESETS, preset
from sonolume.modules.unet import denormalise, normalise

TEXT = "a bell rings"
LONG = "rain falls on a roof of tin, and a dog barks"


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def pipe(make_pipeline) -> TextToAudioPipeline:
    pipe = make_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def test_the_text_encoder_equals_the_official_one(goldens: SimpleNamespace):
    config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="relu")
    encoder = T5EncoderModel(config).eval()
    tied = {"encoder.embed_tokens.weight": "shared.weight"}
    encoder.load_state_dict(goldens.weights_for("t5_tiny", tied), strict=False)
    golden = goldens.golden("text_tiny")
    goldens.assert_close(encoder(golden["ids"]).last_hidden_state, golden["infer"], 1e-5)
    masked = encoder(golden["ids"], attention_mask=golden["mask"]).last_hidden_state
    goldens.assert_close(masked, golden["train"], 1e-5)
    assert not torch.allclose(golden["infer"][0], golden["train"][0], atol=1e-3)


def official_pipeline(goldens: SimpleNamespace) -> TextToAudioPipeline:
    """The whole official model at reduced size; its text states are given by the golden file, so T5 is any."""
    vae = build(AutoencoderKLConfig(ch=32, ch_mult=[1, 2, 2, 4]))
    vae.load_state_dict(vae_weights(goldens.weights_for("vae_4_10_78_small")))
    unet = build_unet(AudioLDMConfig(model_channels=32, context_dim=24, use_checkpoint=False))
    unet.load_state_dict(unet_weights(goldens.weights_for("unet_small")))
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=80, upsample_initial_channel=32, upsample_rates=[8, 8, 2, 2],
            upsample_kernel_sizes=[16, 16, 4, 4], normalize_before=False,
        )
    )  # fmt: skip
    vocoder.load_state_dict(hifigan_weights(goldens.weights_for("hifigan_small")))
    noise = noise_settings(NoiseSchedulerConfig())
    text = T5EncoderModel(T5Config(vocab_size=384, d_model=24, d_kv=8, d_ff=8, num_layers=1, num_heads=1))
    scheduler, _ = preset("reference", "epsilon", noise)
    return TextToAudioPipeline(
        vae.eval(), text, None, unet.eval(), scheduler, vocoder.eval(), noise=noise, text_mask=False
    )


def test_the_reference_preset_is_the_official_inference(goldens: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    golden = goldens.golden("sampler_4_10_78_small")
    pipe = official_pipeline(goldens)
    pipe.set_progress_bar_config(disable=True)
    unconditional, conditional = goldens.input_for("sampler.ctx.24", (2, 7, 24)).split(1)
    encode = lambda texts, length=0: (unconditional if texts == [""] else conditional, None)  # noqa: E731
    monkeypatch.setattr(pipe, "encode_text", encode)
    noise = goldens.input_for("sampler.noise.10x78", (1, 4, 10, 78))
    options = {"num_inference_steps": 6, "guidance_scale": 4.0, "latents": noise}
    latents = pipe("a man is whistling", output_type="latent", **options).audios
    assert pipe.scheduler.timesteps.tolist() == golden["ts"].tolist()
    goldens.assert_close(latents, golden["latents"][-1], 1e-4)
    mel = pipe("a man is whistling", output_type="mel", **options).audios
    goldens.assert_close(mel[..., ::4], golden["mel"][0], 5e-5)
    wave = (pipe.vocode(mel)[0] * 32768).detach().to(torch.int16)
    assert (wave.int() - golden["wav"].int()).abs().max() <= 1


def test_one_sound(pipe: TextToAudioPipeline):
    audios = pipe(TEXT, generator=generators(0)).audios
    assert isinstance(audios, np.ndarray) and audios.dtype == np.float32
    assert audios.shape == (1, 32 * 256)
    assert np.isfinite(audios).all() and audios.std() > 0


def test_a_seed_decides_the_sound(pipe: TextToAudioPipeline):
    both = pipe([TEXT, LONG], generator=generators(1, 2), output_type="mel").audios
    again = pipe([TEXT, LONG], generator=generators(1, 2), output_type="mel").audios
    assert both.equal(again)
    alone = pipe(LONG, generator=generators(2), output_type="mel").audios
    torch.testing.assert_close(alone[0], both[1], rtol=0, atol=1e-3)
    short = pipe(TEXT, generator=generators(1), output_type="mel").audios  # its text is padded beside the longer one
    torch.testing.assert_close(short[0], both[0], rtol=0, atol=1e-3)
    assert (pipe(LONG, generator=generators(3), output_type="mel").audios - alone).abs().max() > 0.01


def test_several_sounds_of_each_text(pipe: TextToAudioPipeline):
    four = pipe(
        [TEXT, LONG], negative_prompt=["hiss", "hum"], num_waveforms_per_prompt=2, generator=generators(0, 1, 2, 3),
        output_type="mel",
    ).audios  # fmt: skip
    assert four.shape == (4, 80, 32)
    third = pipe(LONG, negative_prompt="hum", generator=generators(2), output_type="mel").audios
    torch.testing.assert_close(four[2], third[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize(("seconds", "samples"), [(0.5, 8000), (0.50004, 8001), (0.512, 8192)])
def test_duration_is_exact(pipe: TextToAudioPipeline, seconds: float, samples: int):
    whole = pipe(TEXT, generator=generators(0), num_inference_steps=2).audios
    cut = pipe(TEXT, generator=generators(0), num_inference_steps=2, duration=seconds).audios
    assert cut.shape == (1, samples)
    np.testing.assert_array_equal(cut, whole[:, :samples])


def test_every_option_does_something(pipe: TextToAudioPipeline):
    def mel(**options: object) -> torch.Tensor:
        return pipe(TEXT, generator=generators(0), output_type="mel", **options).audios

    plain = mel()
    for options in ({"guidance_scale": 1.5}, {"num_inference_steps": 3}, {"negative_prompt": "rain"}):
        assert (mel(**options) - plain).abs().max() > 1e-3, options


def test_without_guidance_the_negative_text_costs_nothing(pipe: TextToAudioPipeline, monkeypatch: pytest.MonkeyPatch):
    sizes = []
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda x, *a, **k: (sizes.append(len(x)), forward(x, *a, **k))[1])
    pipe(TEXT, guidance_scale=1, num_inference_steps=2, output_type="latent")
    pipe(TEXT, guidance_scale=2, num_inference_steps=2, output_type="latent")
    assert sizes[0] == 1 and sizes[-1] == 2


@pytest.mark.parametrize("objective", PRESETS)
def test_presets_run(make_pipeline, objective: str):
    pipe = make_pipeline(objective)
    pipe.set_progress_bar_config(disable=True)
    made = {}
    for name in PRESETS[objective]:
        assert pipe.use_preset(name) == pipe.config.num_steps == PRESETS[objective][name][2]
        assert pipe.objective == objective
        made[name] = pipe(TEXT, generator=generators(0), num_inference_steps=4, output_type="latent").audios
        assert made[name].isfinite().all()
    assert not made["balanced"].equal(pipe(TEXT, generator=generators(0), output_type="latent").audios)


@pytest.mark.parametrize("positions", [0, 1, 2])
def test_position_channels(make_pipeline, positions: int):
    pipe = make_pipeline(position_channels=positions)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.config.in_channels == 4 + positions
    assert pipe(TEXT, num_inference_steps=2, output_type="latent").audios.shape == (1, 4, 20, 8)


@pytest.mark.parametrize("masked", [True, False])
def test_texts_do_not_change_each_other(make_pipeline, masked: bool):
    """Without a text mask the padding that counts is that of a text beside its negative text."""
    pipe = make_pipeline("flow", text_mask=masked)
    pipe.set_progress_bar_config(disable=True)
    short, mask = pipe.encode_text([TEXT])
    padded, _ = pipe.encode_text([TEXT, LONG])
    assert (mask is not None) is masked
    torch.testing.assert_close(padded[0, : short.shape[1]], short[0], rtol=0, atol=1e-5)
    both = pipe([TEXT, LONG], generator=generators(1, 2), num_inference_steps=4, output_type="latent").audios
    alone = pipe(TEXT, generator=generators(1), num_inference_steps=4, output_type="latent").audios
    torch.testing.assert_close(both[0], alone[0], rtol=0, atol=1e-3)


def test_without_a_text_mask_padding_counts(make_pipeline):
    pipe = make_pipeline(text_mask=False)
    bare, padded = pipe.encode_text(["rain"])[0], pipe.encode_text(["rain"], [20])[0]
    assert padded.shape[1] == 20 and (padded[:, : bare.shape[1]] - bare).abs().max() > 1e-3
    states = pipe.encode_prompt(LONG, "hiss")
    assert states[1] is None and states[3] is None and states[0].shape == states[2].shape


def test_saved_and_loaded_it_sounds_the_same(pipe: TextToAudioPipeline, tmp_path: Path):
    pipe.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    pipe.save_pretrained(tmp_path)
    loaded = TextToAudioPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.vocoder is None and loaded.config.frames == 32
    one, two = (p(TEXT, generator=generators(5)).audios for p in (pipe, loaded))
    np.testing.assert_array_equal(one, two)


def test_normalise_is_undone_by_denormalise(pipe: TextToAudioPipeline):
    latents = torch.randn(2, 4, 3, 5)
    pipe.vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=0.5)
    torch.testing.assert_close(normalise(latents, pipe.vae), latents * 0.5)
    pipe.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(normalise(latents, pipe.vae)[:, 1], (latents[:, 1] - 2) / 2)
    torch.testing.assert_close(denormalise(normalise(latents, pipe.vae), pipe.vae), latents)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "the text is empty"),
        (["a bell", "  "], {}, "the text is empty"),
        ([], {}, "the text is empty"),
        ("x" * 10_000, {}, "10001 tokens, the text encoder takes 512"),
        (TEXT, {"num_inference_steps": 0}, "number of steps must be at least 1"),
        (TEXT, {"output_type": "wav"}, "output_type must be"),
        (TEXT, {"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt must be at least 1"),
        ([TEXT, TEXT], {"generator": generators(0)}, "1 generators for 2 sounds"),
        ([TEXT, TEXT], {"negative_prompt": ["rain"] * 3}, "3 negative texts for 2 texts"),
        (TEXT, {"latents": torch.zeros(1, 4, 5, 39)}, r"latents are \(1, 4, 5, 39\), not \(1, 4, 20, 8\)"),
    ],
)
def test_wrong_input_is_refused(pipe: TextToAudioPipeline, prompt, options, message: str):
    with pytest.raises(ValueError, match=message):
        pipe(prompt, **options)


def test_wrong_names_are_refused(pipe: TextToAudioPipeline):
    with pytest.raises(ValueError, match="no preset 'slow' for a network that predicts epsilon: reference"):
        pipe.use_preset("slow")
    with pytest.raises(ValueError, match="no scheduler 'flow-euler'"):
        pipe.use_scheduler("flow-euler")


def test_states_do_not_depend_on_the_batch(pipe: TextToAudioPipeline, tmp_path: Path):
    pipe.text_encoder.save_pretrained(tmp_path)
    pipe.tokenizer.save_pretrained(tmp_path)
    encoder = TextEncoder(str(tmp_path))
    together, alone = encoder([TEXT, LONG]), encoder([TEXT])
    assert together[0].shape == (len(TEXT) + 1, 16)
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(pipe.encode_text([TEXT])[0][0], alone[0], rtol=0, atol=1e-5)


def test_refining_brings_a_poor_vocoder_to_the_levels_of_the_mel(goldens: SimpleNamespace):
    pipe = official_pipeline(goldens)  # its small vocoder has random weights
    time = torch.arange(64 * 256) / 16000
    mel = MelSpectrogram()(0.3 * torch.sin(2 * torch.pi * (300 + 400 * time) * time)[None])
    raw = pipe.vocode(mel)
    pipe.register_to_config(refine=8)
    refined = pipe.vocode(mel)
    assert refined.shape == raw.shape == (1, 64 * 256)
    errors = [float((MelSpectrogram()(wave) - mel).abs().mean()) for wave in (raw, refined)]
    assert errors[1] < 0.5 * errors[0]
    assert not torch.allclose(refined, mel_to_wave(mel, num_iters=8), atol=1e-3)  # it starts from the vocoder's phases


def test_windows_of_the_vocoder_and_of_griffin_lim_are_reported_and_can_be_stopped(goldens: SimpleNamespace):
    pipe = official_pipeline(goldens)
    mel = torch.full((6, 80, 200), -5.0)  # two groups of three for the vocoder, one for Griffin-Lim
    pipe.register_to_config(refine=2)
    seen: list[tuple[int, int]] = []
    pipe.vocode(mel, lambda number, total: seen.append((number, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(number: int, total: int) -> None:
        if number == 3:  # of Griffin-Lim
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe.vocode(mel, stop)
    pipe.vocoder = None
    pipe.vocode(mel[:1], lambda number, total: seen.append((number, total)))
    assert seen[3:] == [(1, 1)]
