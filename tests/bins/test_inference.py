import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from sonolume.bins import inference
from sonolume.utils import cli, files

Infer = Callable[..., tuple[int, list[Path], str]]


@pytest.fixture
def infer(tiny_config: Callable[..., Path], tiny_checkpoint: Path, tmp_path: Path, capsys: Any) -> Infer:
    """infer(*flags) -> (exit code, printed paths, stderr); two steps of the tiny pipeline into tmp_path/out."""
    config = tiny_config("tta/audioldm")
    capsys.readouterr()

    def run(*flags: str, checkpoint: Path = tiny_checkpoint, steps: str = "2") -> tuple[int, list[Path], str]:
        argv = ["--config", str(config), "--checkpoint", str(checkpoint), "--num_steps", steps]
        code = cli.run(inference.main, [*argv, "--output_dir", str(tmp_path / "out"), "--device", "cpu", *flags])
        captured = capsys.readouterr()
        return code, [Path(line) for line in captured.out.splitlines()], captured.err

    return run


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith(("error", "Traceback"))]


def test_a_sound_its_spectrogram_and_its_json(infer: Infer, tmp_path: Path):
    code, (wav,), _ = infer("--text", "a dog barks", "--seed", "3", "--duration", "0.5")
    assert code == 0 and wav == tmp_path / "out" / "a_dog_barks_3.wav"
    assert {path.suffix for path in wav.parent.iterdir()} == {".wav", ".png", ".json"}
    wave, rate = soundfile.read(wav)
    assert (len(wave), rate) == (8000, 16000) and np.abs(wave).max() > 0
    facts = json.loads(wav.with_suffix(".json").read_text())
    assert (facts["text"], facts["seed"], facts["num_steps"]) == ("a dog barks", 3, 2)
    assert (facts["duration"], facts["vocoder"]) == (0.5, "Griffin-Lim")
    assert set(facts["versions"]) == {"sonolume", "torch", "diffusers", "transformers"}


def test_the_seed_decides_and_nothing_is_overwritten(infer: Infer, tmp_path: Path):
    first = infer("--text", "rain")[1][0]
    again = infer("--text", "rain")[1][0]
    other = infer("--text", "rain", "--seed", "1")[1][0]
    assert (first.name, again.name, other.name) == ("rain_0.wav", "rain_0-2.wav", "rain_1.wav")
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    (tmp_path / "out" / "bell_0.png").write_text("of another recipe")
    assert infer("--text", "bell")[1][0].name == "bell_0-2.wav"
    assert (tmp_path / "out" / "bell_0.png").read_text() == "of another recipe"


def test_texts_from_flags_and_a_file_in_batches(infer: Infer, tmp_path: Path):
    (tmp_path / "texts").write_text("rain\n\n  a bell  \n", encoding="utf-8")
    flags = ["--text", "a dog", "--text_file", str(tmp_path / "texts"), "--num_samples", "2", "--batch_size", "4"]
    code, paths, _ = infer(*flags)
    names = [path.stem for path in paths]
    assert code == 0 and names == ["a_dog_0", "a_dog_1", "rain_0", "rain_1", "a_bell_0", "a_bell_1"]
    alone = soundfile.read(infer("--text", "rain", "--seed", "1")[1][0])[0]
    np.testing.assert_allclose(soundfile.read(paths[3])[0], alone, atol=2e-2)


@pytest.mark.parametrize("text", ["../../etc/passwd", "/", "...", "🎉🎉", "a/b\\c: d?*.wav", "-", "bell\x00"])
def test_any_text_gives_a_safe_file(infer: Infer, tmp_path: Path, text: str):
    code, (wav,), _ = infer(f"--text={text}")
    assert code == 0 and wav.parent == tmp_path / "out" and wav.exists()
    assert json.loads(wav.with_suffix(".json").read_text())["text"] == text
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "tta_audioldm.json"}


def test_each_flag_reaches_the_pipeline(infer: Infer):
    def samples(*flags: str, steps: str = "2") -> np.ndarray:
        code, paths, stderr = infer("--text", "rain", *flags, steps=steps)
        assert code == 0, stderr
        return soundfile.read(paths[0])[0]

    plain = samples()
    for flags in ("--guidance_scale 1", "--negative_text wind", "--scheduler ddim", "--preset fast"):
        assert not np.array_equal(samples(*flags.split()), plain), flags
    assert not np.array_equal(samples(steps="3"), plain)
    assert np.isfinite(samples("--dtype", "bfloat16")).all()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Three quarters of a second of 16-bit noise, longer than a clip of the tiny pipeline."""
    samples = (np.random.default_rng(0).standard_normal(12000) * 3000).astype(np.int16)
    soundfile.write(tmp_path / "noise.wav", samples, 16000, subtype="PCM_16")
    return tmp_path / "noise.wav"


def samples_of(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


def facts_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        ("--guidance_rescale 0.7", {"guidance_rescale": 0.7}),
        ("--guidance_interval 0.3 0.6", {"guidance_interval": [0.3, 0.6]}),
        ("--duration 0.75", {"duration": 0.75}),
        ("--duration 0.75 --window_overlap 0.2", {"duration": 0.75, "window_overlap": 0.2}),
        ("--scheduler ddim", {"scheduler": "DDIMScheduler", "preset": None}),
        ("--preset fast", {"scheduler": "DEISMultistepScheduler", "preset": "fast"}),
        ("--negative_text wind", {"negative_text": "wind"}),
        ("--guidance_scale 2", {"guidance_scale": 2.0}),
        ("--dtype bfloat16", {"dtype": "bfloat16"}),
        ("--cache_interval 2", {"cache_interval": 2}),
        ("--batch_size 2", {"batch_size": 2, "device": "cpu"}),
    ],
)
def test_each_flag_is_noted(infer: Infer, flags: str, facts: dict[str, Any]):
    code, (wav,), stderr = infer("--text", "rain", *flags.split())
    assert code == 0, stderr
    found = facts_of(wav)
    assert {key: found[key] for key in facts} == facts
    assert found["init_audio"] is None and found["kept"] == [] and found["lora"] is None
    assert len(samples_of(wav)) == round(found["duration"] * 16000)


def test_guidance_and_window_flags_reach_the_pipeline(infer: Infer):
    def samples(*flags: str) -> np.ndarray:
        return samples_of(infer("--text", "rain", "--duration", "0.75", *flags)[1][0])

    plain = samples()
    for flags in ("--guidance_rescale 1", "--guidance_interval 0 0.1", "--window_overlap 0.25", "--cache_interval 2"):
        assert not np.array_equal(samples(*flags.split()), plain), flags


def test_batch_size_bounds_what_is_made_at_once(infer: Infer, monkeypatch: pytest.MonkeyPatch):
    from diffusers import UNet2DConditionModel

    sizes: list[int] = []
    forward = UNet2DConditionModel.forward
    monkeypatch.setattr(
        UNet2DConditionModel, "forward", lambda self, x, *a, **k: (sizes.append(len(x)), forward(self, x, *a, **k))[1]
    )
    for flags in (["--num_samples", "4", "--batch_size", "2"], ["--duration", "1.5", "--batch_size", "3"]):
        sizes.clear()
        assert infer("--text", "rain", *flags)[0] == 0
        assert max(sizes) == 2 * int(flags[3])


def test_a_sound_from_a_sound(infer: Infer, sound: Path):
    results = {}
    for strength in ("0.5", "1"):
        code, (wav,), stderr = infer("--text", "rain", "--init_audio", str(sound), "--strength", strength, steps="4")
        assert code == 0, stderr
        results[strength] = samples_of(wav)
        assert len(results[strength]) == 12000
        assert facts_of(wav)["strength"] == float(strength) and facts_of(wav)["init_audio"] == str(sound)
    assert not np.array_equal(results["0.5"], results["1"])
    _, (wav,), _ = infer("--text", "rain", "--init_audio", str(sound))
    assert facts_of(wav)["strength"] == 0.8


def test_inpainting_keeps_the_rest(infer: Infer, sound: Path):
    flags = ["--init_audio", str(sound), "--mask", "0.1-0.2,0.3-0.4", "--mask", "0.6-"]
    code, paths, stderr = infer("--text", "rain", "--text", "a dog", *flags)
    assert code == 0, stderr
    before, facts = samples_of(sound), facts_of(paths[0])
    assert facts["mask"] == [[0.1, 0.2], [0.3, 0.4], [0.6, None]] and facts["strength"] == 1
    assert facts["kept"] == [[0.0, 0.1], [0.2, 0.3], [0.4, 0.6]]
    for path in paths:
        after = samples_of(path)
        for start, end in facts["kept"]:
            place = slice(round(start * 16000), round(end * 16000))
            np.testing.assert_array_equal(after[place], before[place])
        assert not np.array_equal(after[2000:2800], before[2000:2800])
    assert facts["peak"] > 1 > facts["gain"] > 0  # random weights are loud: only what was made is brought down


def test_a_sound_of_another_rate_goes_on(infer: Infer, tmp_path: Path):
    wave = 0.1 * np.random.default_rng(0).standard_normal((22050, 2))
    soundfile.write(tmp_path / "stereo.flac", wave, 22050)
    given = ["--text", "rain", "--init_audio", str(tmp_path / "stereo.flac"), "--continuation"]
    code, (wav,), stderr = infer(*given, "--duration", "1.4")
    assert code == 0, stderr
    assert len(samples_of(wav)) == 22400 and samples_of(wav)[16400:].std() > 0
    facts = facts_of(wav)
    assert facts["continuation"] and facts["kept"] == [[0.0, 1.0]] and facts["mask"] == [[1.0, None]]
    for flags in ([], ["--duration", "1"]):
        code, _, stderr = infer(*given, *flags)
        assert code == 2 and "--continuation needs a --duration above the 1 s of" in errors(stderr)[0]


def test_a_sound_that_cannot_be_used_is_one_line(infer: Infer, sound: Path, tmp_path: Path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "short.wav", np.ones(1600) * 0.1, 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    for name, flags, message in (
        ("silent.wav", [], "silent.wav: is silent"),
        ("short.wav", [], "short.wav: is too short: 0.1 s"),
        ("nan.wav", [], "nan.wav: holds NaN or infinite values"),
        ("text.wav", [], "text.wav: "),
        ("noise.wav", ["--mask", "0.5-0.8"], "0.5-0.8 lies outside"),
        ("noise.wav", ["--mask", "0.5-0.5"], "0.5-0.5 is empty"),
        ("noise.wav", ["--mask", "0.5-0.2"], "0.5-0.2 is reversed"),
        ("noise.wav", ["--mask", "half"], "--mask: 'half'"),
        ("noise.wav", ["--mask", "0.6-0.7", "--duration", "0.65"], "lasts 0.65 s"),
        ("noise.wav", ["--mask", "0.2-0.3", "--duration", "1"], "duration 1 s is longer than init_audio (0.75 s)"),
        ("noise.wav", ["--strength", "1.1"], "--strength"),
        ("noise.wav", ["--strength", "0"], "--strength"),
    ):
        code, printed, stderr = infer("--text", "rain", "--init_audio", str(tmp_path / name), *flags)
        (line,) = errors(stderr)
        assert code == 2 and not printed and message in line, line


def test_a_loud_result_is_scaled_with_a_message(infer: Infer, monkeypatch: pytest.MonkeyPatch):
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

    peak = facts_of(infer("--text", "rain")[1][0])["peak"]
    vocode = TextToAudioPipeline.vocode

    def at_peak(wanted: float) -> tuple[Path, str]:
        loud = lambda self, mel, on_window=None: wanted / peak * vocode(self, mel)  # noqa: E731
        monkeypatch.setattr(TextToAudioPipeline, "vocode", loud)
        code, (wav,), stderr = infer("--text", "rain")
        assert code == 0
        return wav, stderr

    (quiet, said), (loud, said_loud) = at_peak(0.5), at_peak(2.0)
    assert "its peak" not in said and f"{loud.name}: its peak was 2.00, scaled by 0.500 to fit" in said_loud
    assert facts_of(quiet)["peak"] == pytest.approx(0.5) and facts_of(quiet)["gain"] == 1
    assert facts_of(loud)["peak"] == pytest.approx(2) and facts_of(loud)["gain"] == pytest.approx(0.5)
    assert np.abs(samples_of(loud).astype(int)).max() >= 32767
    np.testing.assert_allclose(soundfile.read(loud)[0], 2 * soundfile.read(quiet)[0], atol=2e-4)  # nothing is clipped


def test_a_missing_vocoder_is_reported_once(infer: Infer):
    _, _, stderr = infer("--text", "rain", "--num_samples", "2", "--batch_size", "1")
    assert stderr.count("has no vocoder") == 1


def test_a_long_text_is_refused_in_one_line_only(infer: Infer):
    _, _, stderr = infer("--text", 10_000 * "x")
    assert "Token indices" not in stderr and "10001 tokens" in stderr


def test_words_that_the_miniature_does_not_know_are_named_once(infer: Infer, copy_of_checkpoint: Path):
    flags = ("--text", "a cat meows", "--text", "the bell rings", "--text", "un chien", "--batch_size", "1")
    assert "shipped miniature" not in infer(*flags)[2]  # another text encoder
    path = copy_of_checkpoint / "text_encoder" / "config.json"
    files.write_json(path, json.loads(path.read_text()) | {"world": 1})
    stderr = infer(*flags, checkpoint=copy_of_checkpoint)[2]
    assert stderr.count("shipped miniature") == 1 and "does not know: cat, meows, un, chien (" in stderr
    assert "shipped miniature" not in infer("--text", "Two bells ring twice.", checkpoint=copy_of_checkpoint)[2]
    files.write_json(copy_of_checkpoint / "sonolume.json", {"dataset": ["my_clips"]})  # learned other captions since
    assert "shipped miniature" not in infer(*flags, checkpoint=copy_of_checkpoint)[2]


def test_silence_is_reported(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

    vocode = TextToAudioPipeline.vocode
    monkeypatch.setattr(TextToAudioPipeline, "vocode", lambda pipe, mel, on_window=None: 1e-4 * vocode(pipe, mel))
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    assert "rain_0.wav: it is silent" in infer("--text", "rain")[2]
    masked = infer("--text", "rain", "--init_audio", str(tmp_path / "a.wav"), "--mask", "0.2-0.6")[2]
    assert "rain_0-2.wav: the generated part is silent" in masked
    monkeypatch.undo()
    assert "silent" not in infer("--text", "rain")[2]


@pytest.mark.parametrize("flags", [[], ["--lora", "."]])
def test_peft_is_never_imported(infer: Infer, flags: list[str], monkeypatch: pytest.MonkeyPatch):
    hidden: list[tuple[str, ...]] = []

    def recipe_code(recipe: str, part: str, without: tuple[str, ...] = ()) -> Any:
        hidden.append(without)
        return SimpleNamespace(run=lambda config, options: None)

    monkeypatch.setattr(inference, "recipe_code", recipe_code)
    assert infer("--text", "rain", *flags)[0] == 0 and hidden == [("peft",)]


def test_a_lora_file_changes_the_sound_by_its_scale(infer: Infer, tmp_path: Path, tiny_checkpoint: Path):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny_checkpoint / "unet" / "diffusion_pytorch_model.safetensors")
    name = next(key for key in sorted(weights) if key.endswith("attn2.to_v.weight")).removesuffix(".weight")
    outputs, inputs = weights[f"{name}.weight"].shape
    pair = {"lora_A": torch.randn(2, inputs), "lora_B": torch.randn(outputs, 2)}
    save_file({f"unet.{name}.{key}.weight": value for key, value in pair.items()}, tmp_path / "a.safetensors")
    flags = ["--text", "rain", "--lora", str(tmp_path / "a.safetensors")]
    plain, whole = infer("--text", "rain")[1][0], infer(*flags)[1][0]
    (tmp_path / "run" / "lora").mkdir(parents=True)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors")
    of_run = infer("--text", "rain", "--lora", str(tmp_path / "run"))[1][0]
    np.testing.assert_array_equal(samples_of(of_run), samples_of(whole))
    none = infer(*flags, "--lora_scale", "0")[1][0]
    assert not np.array_equal(samples_of(whole), samples_of(plain))
    np.testing.assert_array_equal(samples_of(none), samples_of(plain))
    assert (facts_of(whole)["lora"], facts_of(none)["lora_scale"]) == (str(tmp_path / "a.safetensors"), 0.0)


def test_a_preset_brings_its_steps(infer: Infer, tiny_config: Callable[..., Path]):
    _, (wav,), _ = infer("--text", "rain", "--preset", "fast", steps="7")
    assert json.loads(wav.with_suffix(".json").read_text())["num_steps"] == 7
    argv = ["--config", str(tiny_config("tta/audioldm")), "--text", "rain", "--preset", "fast"]
    folder = wav.parent
    checkpoint = json.loads(wav.with_suffix(".json").read_text())["model"]
    assert cli.run(inference.main, [*argv, "--checkpoint", checkpoint, "--output_dir", str(folder)]) == 0
    facts = json.loads((folder / "rain_0-2.json").read_text())
    assert (facts["num_steps"], facts["preset"], facts["scheduler"]) == (10, "fast", "DEISMultistepScheduler")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--text"),
        (["--text", "rain", "--text", " \t"], "--text"),
        (["--text", 10_000 * "x"], "10001 tokens"),
        (["--text", "rain", "--audio", "x.wav"], "--audio"),
        (["--text", "rain", "--guidance_scale", "nan"], "--guidance_scale"),
        (["--text", "rain", "--guidance_scale", "-3"], "--guidance_scale must be from 0 to 100"),
        (["--text", "rain", "--lora", ".", "--lora_scale", "9"], "--lora_scale must be from -2 to 2"),
        (["--text", "rain", "--seed", "99999999999999999999"], "--seed"),
        (["--text", "rain", "--duration", "601"], "--duration"),
        (["--text", "rain", "--duration", "inf"], "--duration"),
        (["--text", "rain", "--guidance_interval", "0.9", "0.1"], "--guidance_interval"),
        (["--text", "rain", "--cache_interval", "0"], "--cache_interval must be at least 1, got 0"),
        (["--text", "rain", "--cache_interval", "2.5"], "argument --cache_interval: needs a whole number, got '2.5'"),
        (["--text", "rain", "--guidance_scale", "much"], "argument --guidance_scale: needs a number, got 'much'"),
        (["--text", "rain", "--cache_interval", "2", "--compile"], "not possible with --compile"),
        (["--text", "rain", "--strength", "0.5"], "--strength needs --init_audio"),
        (["--text", "rain", "--mask", "1-2"], "--mask needs --init_audio"),
        (["--text", "rain\udcff"], r"--text 'rain\udcff': not UTF-8"),
        (["--text", "rain", "exp_name=\udcff"], "not UTF-8"),
        (["--text", "rain", "--continuation"], "--continuation needs --init_audio"),
        (["--text", "rain", "--lora_scale", "0.5"], "--lora_scale needs --lora"),
        (["--text", "rain", "--preset", "best"], "'best'"),
        (["--text", "rain", "--scheduler", "flow-euler"], "'flow-euler'"),
        (["--text", "rain", "--scheduler", "x"], "'ddim', 'pndm', 'dpm++'"),
        (["--text", "rain", "--dtype", "float16", "--device", "cpu"], "--dtype float16"),
        (["--text", "rain", "--device", "gpu"], "--device gpu"),
        (["--text", "rain", "--device", "cuda:99"], "--device cuda:99"),
        (["--text", "rain", "model.audioldm.num_headz=1"], "'num_heads'"),
    ],
)
def test_a_mistake_is_one_line(infer: Infer, tmp_path: Path, flags: list[str], message: str):
    code, printed, stderr = infer(*flags)
    assert code == 2 and not printed
    (line,) = errors(stderr)
    assert message in line
    assert not [path for path in tmp_path.rglob("*") if "out" in path.parts and path.is_file()]


def test_a_text_file_must_be_utf8(infer: Infer, tmp_path: Path):
    (tmp_path / "texts").write_bytes("ein Hund bellt über\n".encode("latin-1"))
    code, _, stderr = infer("--text_file", str(tmp_path / "texts"))
    assert code == 2 and "texts:1: not UTF-8" in errors(stderr)[0]


def test_the_output_folder_must_be_a_folder(infer: Infer, tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    code, _, stderr = infer("--text", "rain")
    assert code == 2 and "--output_dir" in errors(stderr)[0]
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("part", ["wav", "png", "json"])
def test_a_full_disk_is_one_line(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str):
    sibling = files.temporary_path

    def on_a_full_disk(path: Path) -> Path:
        temporary = sibling(path)
        if path.suffix == f".{part}":
            temporary.symlink_to("/dev/full")
        return temporary

    monkeypatch.setattr(files, "temporary_path", on_a_full_disk)
    code, printed, stderr = infer("--text", "rain")
    assert (code, printed) == (1, [])
    (line,) = errors(stderr)
    assert "no space left on the device" in line
    left = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert f".{part}" not in left and not list((tmp_path / "out").glob(".*"))


def damaged(how: str, folder: Path) -> Path:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    match how:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "empty":
            weights.write_bytes(b"")
        case "missing":
            weights.unlink()
        case "other sizes":
            config = json.loads((folder / "unet" / "config.json").read_text())
            (folder / "unet" / "config.json").write_text(json.dumps(config | {"block_out_channels": [16, 16, 16]}))
        case "part":
            return folder / "unet"
        case "other class":
            (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
        case "broken index":
            (folder / "model_index.json").write_text('{"_class_name": ')
        case "list":
            (folder / "model_index.json").write_text("[]")
        case "file":
            return folder / "model_index.json"
        case "not a model":
            (folder / "empty").mkdir()
            return folder / "empty"
        case "absent":
            return folder / "absent"
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "diffusion_pytorch_model.safetensors: cut or damaged"),
        ("empty", "diffusion_pytorch_model.safetensors: cut or damaged"),
        ("missing", "cannot be loaded: "),
        ("other sizes", "cannot be loaded: "),
        ("part", "holds UNet2DConditionModel, not TextToAudioPipeline"),
        ("other class", "holds StableDiffusionPipeline, not TextToAudioPipeline"),
        ("broken index", "model_index.json"),
        ("list", "model_index.json"),
        ("file", "model_index.json"),
        ("not a model", "holds no exported model"),
        ("absent", "--checkpoint"),
    ],
)
def test_a_wrong_checkpoint_is_one_line(infer: Infer, copy_of_checkpoint: Path, tmp_path: Path, how: str, message: str):
    code, _, stderr = infer("--text", "rain", checkpoint=damaged(how, copy_of_checkpoint))
    (line,) = errors(stderr)
    assert code == 2 and message in line
    assert not (tmp_path / "out").exists()


def test_code_in_a_checkpoint_is_not_executed(infer: Infer, copy_of_checkpoint: Path):
    for path in copy_of_checkpoint.glob("*.py"):
        path.write_text("raise SystemExit(77)")
    assert infer("--text", "rain", checkpoint=copy_of_checkpoint)[0] == 0


def test_without_a_trained_pipeline_the_shipped_one_is_named(
    tiny_config: Callable[..., Path], copy_of_checkpoint: Path, in_folder: Path, monkeypatch: Any, capsys: Any
):
    from sonolume.models.tta.audioldm import inference as recipe

    monkeypatch.setattr(recipe, "SHIPPED", str(copy_of_checkpoint))
    argv = ["--config", str(tiny_config("tta/audioldm")), "--text", "rain", "--num_steps", "1"]
    assert cli.run(inference.main, argv) == 0
    captured = capsys.readouterr()
    assert "no trained pipeline at" in captured.err and "--checkpoint FOLDER" in captured.err
    assert (in_folder / captured.out.strip()).parent == in_folder / "outputs"


def test_neither_preparation_nor_lightning_is_imported(
    tiny_config: Callable[..., Path], tiny_checkpoint: Path, tmp_path: Path
):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith(('sonolume.preprocessors', 'pytorch_lightning', 'lightning')):\n"
        "            raise RuntimeError(f'{name} is blocked')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from sonolume.bins import inference\n"
        "from sonolume.utils import cli\n"
        "sys.exit(cli.run(inference.main))"
    )
    argv = ["--config", str(tiny_config("tta/audioldm")), "--checkpoint", str(tiny_checkpoint), "--text", "rain"]
    command = [sys.executable, "-c", code, *argv, "--num_steps", "1", "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(done.stdout.strip()).is_file()
