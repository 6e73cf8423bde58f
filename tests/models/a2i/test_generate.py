"""run_inference.sh of audio to image: sounds in, pictures and sidecars out, one line for every mistake."""

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from sonolume.bins import inference
from sonolume.utils import cli

Infer = Callable[..., tuple[int, list[Path], str]]
RATE = 16000


@pytest.fixture(scope="module")
def load_once() -> Callable[..., Any]:
    """loading.load_stable_diffusion, which loads each folder once."""
    from sonolume.models.a2i import loading

    load, kept = loading.load_stable_diffusion, {}

    def loaded(source: str, key: str, dtype: Any, safety_checker: bool = True) -> Any:
        if (source, dtype) not in kept:
            pipe = load(source, key, dtype, safety_checker)
            kept[source, dtype] = pipe, pipe.scheduler, pipe.unet
        pipe, scheduler, unet = kept[source, dtype]
        pipe.scheduler, pipe.unet = scheduler, copy.deepcopy(unet)
        return pipe

    return loaded


@pytest.fixture
def infer(
    exported: Path, formula_encoder: Callable[..., Any], load_once: Callable[..., Any], tmp_path: Path, root: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: Any,
) -> Infer:  # fmt: skip
    """infer(*flags) -> (exit code, printed paths, stderr); two steps of the tiny networks into tmp_path/out.

    Further arguments are those of the `FormulaEncoder`, whose window is 1 s.
    """
    import sonolume.models.a2i.audiotoken.encoder as recipe
    from sonolume.models.a2i import loading

    monkeypatch.setattr(loading, "load_stable_diffusion", load_once)

    def run(*flags: str, checkpoint: Path = exported, **encoder: Any) -> tuple[int, list[Path], str]:
        monkeypatch.setattr(recipe, "load", lambda *_: formula_encoder(**encoder))
        argv = ["--config", str(root / "egs/a2i/audiotoken/exp_config.json"), "--checkpoint", str(checkpoint)]
        steps = [] if "--num_steps" in flags or "--preset" in flags else ["--num_steps", "2"]
        capsys.readouterr()
        argv += [*steps, "--output_dir", str(tmp_path / "out"), "--device", "cpu", *flags]
        code = cli.run(inference.main, argv)
        captured = capsys.readouterr()
        return code, [Path(line) for line in captured.out.splitlines()], captured.err

    return run


def write(path: Path, seconds: float = 0.5, rate: int = RATE, channels: int = 1, seed: int = 0) -> str:
    """A file of noise; its name."""
    wave = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, wave, rate)
    return str(path)


@pytest.fixture
def dog(tmp_path: Path) -> str:
    return write(tmp_path / "dog.wav")


def facts_of(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith(("error", "Traceback"))]


def test_a_picture_and_its_facts(infer: Infer, dog: str, tmp_path: Path, exported: Path) -> None:
    code, (png,), stderr = infer("--audio", dog, "--seed", "3")
    assert code == 0 and png == tmp_path / "out" / "dog_3.png", stderr
    assert {path.name for path in png.parent.iterdir()} == {"dog_3.png", "dog_3.json"}
    assert pixels(png).shape == (32, 32, 3)
    facts = facts_of(png)
    assert (facts["audio"], facts["seconds"], facts["seed"]) == (dog, [0.0, 0.5], 3)
    assert (facts["prompt"], facts["text"], facts["mix"], facts["audio_strength"]) == ("a photo of <*>", None, None, 1)
    assert (facts["num_steps"], facts["guidance_scale"], facts["preset"]) == (2, 7.5, "balanced")
    assert (facts["model"], facts["safety_checker"], facts["trained_lora"]) == (str(exported), False, False)
    assert facts["stable_diffusion"].endswith("tiny") and (facts["height"], facts["width"]) == (32, 32)
    assert set(facts["versions"]) == {"sonolume", "torch", "diffusers", "transformers"}


def test_the_seed_decides_and_nothing_is_overwritten(infer: Infer, dog: str) -> None:
    first, second = infer("--audio", dog, "--num_samples", "2")[1]
    again, other = infer("--audio", dog)[1][0], infer("--audio", dog, "--seed", "1")[1][0]
    names = [path.name for path in (first, second, again, other)]
    assert names == ["dog_0.png", "dog_1.png", "dog_0-2.png", "dog_1-2.png"]
    assert np.abs(pixels(first) - pixels(again)).max() <= 1 and np.abs(pixels(second) - pixels(other)).max() <= 1
    assert np.abs(pixels(first) - pixels(second)).mean() > 1


def test_folders_formats_and_one_load(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any rate and channels; the pipeline is loaded once for all of them."""
    from sonolume.models.a2i import loading

    loads: list[str] = []
    load = loading.load_stable_diffusion
    monkeypatch.setattr(loading, "load_stable_diffusion", lambda *a: (loads.append(a[0]), load(*a))[1])
    folder = tmp_path / "sounds"
    (folder / "more").mkdir(parents=True)
    write(folder / "a.wav", rate=44100, channels=2)
    write(folder / "more" / "b.flac", rate=8000)
    write(folder / "c.ogg")
    code, paths, stderr = infer("--audio", str(folder), "--audio", str(folder / "a.wav"), "--batch_size", "2")
    assert code == 0, stderr
    assert [path.name for path in paths] == ["a_0.png", "c_0.png", "b_0.png"] and len(loads) == 1


@pytest.mark.parametrize(
    ("flags", "facts"),
    [
        ("--prompt big,<*> --negative_text dull", {"prompt": "big,<*>", "negative_text": "dull"}),
        ("--text snow --mix 0.3", {"text": "snow", "mix": 0.3}),
        ("--audio_strength 1.5", {"audio_strength": 1.5}),
        ("--height 16 --width 48", {"height": 16, "width": 48}),
        ("--guidance_scale 1", {"guidance_scale": 1}),
        ("--preset fast", {"preset": "fast", "num_steps": 10, "scheduler": "DEISMultistepScheduler"}),
        ("--preset reference --num_steps 3", {"preset": "reference", "num_steps": 3, "scheduler": "PNDMScheduler"}),
        ("--scheduler ddim", {"scheduler": "DDIMScheduler", "preset": None}),
        ("--dtype bfloat16", {"dtype": "bfloat16"}),
        ("--no_safety_checker", {"safety_checker": False}),
    ],
)
def test_each_flag_is_noted_and_counts(infer: Infer, dog: str, flags: str, facts: dict[str, Any]) -> None:
    code, (png,), stderr = infer("--audio", dog, *flags.split())
    assert code == 0, stderr
    found = facts_of(png)
    assert {key: found[key] for key in facts} == facts
    assert pixels(png).shape == (found["height"], found["width"], 3)


def test_several_texts_give_several_pictures(infer: Infer, dog: str) -> None:
    code, paths, stderr = infer("--audio", dog, "--text", "snow", "--text", "a beach")
    assert code == 0, stderr
    assert [path.name for path in paths] == ["dog_snow_0.png", "dog_a_beach_0.png"]
    assert np.abs(pixels(paths[0]) - pixels(paths[1])).max() > 0


def test_a_long_recording_is_one_token_or_a_storyboard(infer: Infer, tmp_path: Path) -> None:
    """The encoder's window is 1 s. With --window: a picture of each, and a sheet with times."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(round(4.3 * RATE))
    wave[RATE : 2 * RATE] = 0
    soundfile.write(tmp_path / "walk.wav", wave, RATE)
    code, (png,), stderr = infer("--audio", str(tmp_path / "walk.wav"))
    assert code == 0 and facts_of(png)["seconds"] == [0.0, 4.3] and facts_of(png)["window"] is None
    code, paths, stderr = infer("--audio", str(tmp_path / "walk.wav"), "--window", "1", "--batch_size", "2")
    assert code == 0, stderr
    assert [path.name for path in paths] == [*(f"walk_w{i}_0.png" for i in (0, 2, 3, 4)), "walk_storyboard_0.png"]
    assert "walk.wav: 1 of 5 windows are silent: no pictures of them" in stderr
    assert [facts_of(path)["seconds"] for path in paths[:4]] == [[0, 1], [2, 3], [3, 4], [4, 4.3]]
    sheet = facts_of(paths[-1])
    assert [window["picture"] for window in sheet["windows"]] == [path.name for path in paths[:4]]
    assert sheet["audio"].endswith("walk.wav") and sheet["seed"] == 0
    assert pixels(paths[-1]).shape[1] > 5 * 160
    code, paths, stderr = infer("--audio", str(tmp_path / "walk.wav"), "--window", "2", "--hop", "0.75")
    assert [facts_of(path)["seconds"] for path in paths[:-1]][:2] == [[0, 2], [0.75, 2.75]]


@pytest.fixture
def thunder(tmp_path: Path) -> str:
    """Three seconds of noise, loudest from 1.5 to 2.5 s."""
    wave = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    wave[: 3 * RATE // 2] /= 10
    wave[5 * RATE // 2 :] = 0
    soundfile.write(tmp_path / "thunder.wav", wave, RATE)
    return str(tmp_path / "thunder.wav")


def test_the_seconds_decide_the_picture(infer: Infer, thunder: str, tmp_path: Path) -> None:
    """A span is what a file of these seconds would be; the loudest part likewise."""
    wave, _ = soundfile.read(thunder)
    soundfile.write(tmp_path / "part.wav", wave[3 * RATE // 2 : 5 * RATE // 2], RATE)
    (part,) = infer("--audio", str(tmp_path / "part.wav"))[1]
    for flags, policy, seconds in (
        (["--span", "1.5-2.5"], "mean", [1.5, 2.5]), ([], "loudest", [0, 3]), (["--average"], "loudest", [0, 3]),
    ):  # fmt: skip
        code, (png,), stderr = infer("--audio", thunder, *flags, long_sounds=policy)
        assert np.array_equal(pixels(png), pixels(part)) is (not flags or flags[0] == "--span"), policy
        facts, line = facts_of(png), next(line for line in stderr.splitlines() if "of 3 s" in line)
        assert facts["seconds"] == seconds and facts["average"] is (flags == ["--average"]), line
        assert facts["encoded_seconds"] == ([[1.5, 2.5]] if not facts["average"] else [[0, 1], [1, 2], [2, 3]])


def test_a_storyboard_of_a_span(infer: Infer, thunder: str) -> None:
    code, paths, stderr = infer("--audio", thunder, "--span", "0.5-2.5", "--window", "1")
    assert code == 0 and [facts_of(path)["seconds"] for path in paths[:-1]] == [[0.5, 1.5], [1.5, 2.5]], stderr
    code, paths, stderr = infer("--audio", thunder, "--window", "1.5", long_sounds="refuse")
    assert code == 2 and not paths and "--window must be at most 1 s here, got 1.5" in errors(stderr)[0]


def test_long_sounds_that_are_refused_are_counted(infer: Infer, thunder: str, dog: str) -> None:
    code, paths, stderr = infer("--audio", dog, "--audio", thunder, long_sounds="refuse")
    assert code == 0 and len(paths) == 1 and "1 of 2 sounds were left out: 1 too long" in stderr
    code, paths, stderr = infer("--audio", thunder, long_sounds="refuse")
    (line,) = errors(stderr)
    assert code == 2 and not paths and "thunder.wav: 3 s long, at most 1 s are encoded: --span" in line


def test_a_sound_that_the_picture_should_not_show(infer: Infer, dog: str, thunder: str, tmp_path: Path) -> None:
    plain = infer("--audio", dog)[1][0]
    rain = write(tmp_path / "rain.wav", seed=1)
    code, (png,), stderr = infer("--audio", dog, "--negative_audio", rain)
    facts = facts_of(png)
    assert code == 0 and (facts["negative_audio"], facts["negative_seconds"]) == (rain, [[0, 0.5]]), stderr
    assert not np.array_equal(pixels(plain), pixels(png)) and facts_of(plain)["negative_audio"] is None
    worded = infer("--audio", dog, "--negative_audio", rain, "--negative_text", "dull")[1][0]
    assert not np.array_equal(pixels(worded), pixels(png))
    inside = infer("--audio", dog, "--negative_audio", rain, "--negative_text", "dull <*>")[1][0]
    assert np.array_equal(pixels(worded), pixels(inside))
    code, (png,), stderr = infer("--audio", dog, "--negative_audio", thunder, long_sounds="loudest")
    assert facts_of(png)["negative_seconds"] == [[1.5, 2.5]] and "(1.5-2.5 of 3 s)" in stderr


def test_noise_as_the_negative_depends_on_the_seed_alone(infer: Infer, dog: str) -> None:
    flags = ["--audio", dog, "--negative_audio", "noise", "--num_samples", "2"]
    both, alone = infer(*flags, "--batch_size", "2")[1], infer(*flags, "--batch_size", "1")[1]
    second = infer(*flags[:-2], "--seed", "1")[1][0]
    assert facts_of(second)["negative_audio"] == "noise" and facts_of(second)["negative_seconds"] is None
    for one, other in ((both[0], alone[0]), (both[1], alone[1]), (both[1], second)):
        assert np.abs(pixels(one) - pixels(other)).max() <= 1
    plain = infer("--audio", dog, "--seed", "1")[1][0]
    assert np.abs(pixels(plain) - pixels(second)).max() > 1


def test_several_tokens_of_a_sound(infer: Infer, dog: str, tmp_path: Path) -> None:
    """Each <*> stands for all of them, whatever the flags."""
    tokens = 3
    rain = write(tmp_path / "rain.wav", seed=1)
    two = ["--audio", dog, "--audio", rain, "--together", "--prompt", "<*> and <*>"]
    for flags in (["--audio", dog, "--prompt", "<*> by <*>", "--negative_audio", rain],
                  [*two, "--negative_audio", "noise", "--text", "snow", "--audio_strength", "1.5"]):  # fmt: skip
        code, paths, stderr = infer(*flags, tokens=tokens)
        assert code == 0 and len(paths) == 1, stderr
    code, _, stderr = infer("--audio", dog, "--prompt", f"{'a' * 75}<*>", tokens=tokens)
    assert code == 2 and f"{75 + tokens} tokens" in errors(stderr)[0]


def test_several_sounds_in_one_picture(infer: Infer, dog: str, tmp_path: Path) -> None:
    rain = write(tmp_path / "rain.wav", seed=1)
    flags = ["--audio", dog, "--audio", rain, "--together"]
    code, (png,), stderr = infer(*flags, "--prompt", "<*> and <*>")
    assert code == 0 and png.name == "dog_rain_0.png", stderr
    assert facts_of(png)["audio"] == [dog, rain] and facts_of(png)["seconds"] == [[0, 0.5], [0, 0.5]]
    code, _, stderr = infer(*flags)
    assert code == 2 and "--together needs a --prompt with one <*> for each of the 2 sounds, it has 1" in stderr


def test_a_picture_to_start_from(infer: Infer, dog: str, tmp_path: Path) -> None:
    gradient = np.linspace(0, 255, 60 * 40 * 3).astype(np.uint8).reshape(60, 40, 3)
    Image.fromarray(gradient).save(tmp_path / "start.png")
    flags = ["--audio", dog, "--init_image", str(tmp_path / "start.png"), "--num_steps", "10"]
    (low,), (high,) = infer(*flags, "--strength", "0.1")[1], infer(*flags, "--strength", "1")[1]
    assert facts_of(low)["strength"] == 0.1 and facts_of(low)["init_image"].endswith("start.png")
    assert np.abs(pixels(low) - pixels(high)).mean() > 3
    assert facts_of(infer(*flags)[1][0])["strength"] == 0.8


def test_bad_sounds_among_good_ones_are_counted(infer: Infer, tmp_path: Path, dog: str) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write(folder / "good.wav")
    write(folder / "short.wav", seconds=0.1)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    (folder / "text.wav").write_text("no sound")
    code, paths, stderr = infer("--audio", str(folder), "--audio", dog)
    assert code == 0 and [path.name for path in paths] == ["good_0.png", "dog_0.png"], stderr
    lines = [line for line in stderr.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 3 and "short.wav: 0.100 s long" in lines[0] + lines[1]
    assert "3 of 5 sounds were left out: " in stderr and "1 silent" in stderr
    for name in ("good.wav",):
        (folder / name).unlink()
    code, paths, stderr = infer("--audio", str(folder))
    assert code == 2 and not paths and "none of the 3 sounds can be used: " in errors(stderr)[0]


def test_one_bad_sound_is_one_line(infer: Infer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    write(tmp_path / "short.wav", seconds=0.19)
    for name, message in (
        ("silent.wav", "silent.wav: silent"),
        ("short.wav", "short.wav: 0.190 s long"),
        ("nothing.wav", "nothing.wav: no such file or folder"),
    ):
        code, paths, stderr = infer("--audio", str(tmp_path / name))
        assert code == 2 and not paths and message in errors(stderr)[0]
    assert not (tmp_path / "out").exists()


def test_a_video_with_and_without_sound(infer: Infer, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    for name, has_sound in (("loud.mp4", True), ("mute.mp4", False)):
        with av.open(str(tmp_path / name), "w") as container:
            video = container.add_stream("mpeg4", rate=10)
            video.width = video.height = 32
            sound = container.add_stream("aac", rate=RATE, layout="mono") if has_sound else None
            for _ in range(10):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
            container.mux(video.encode())
            if sound:
                wave = (0.1 * np.random.default_rng(0).standard_normal((1, RATE))).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                frame.sample_rate = RATE
                container.mux([*sound.encode(frame), *sound.encode()])
    code, (png,), stderr = infer("--audio", str(tmp_path / "loud.mp4"))
    assert code == 0 and png.name == "loud_0.png", stderr
    code, paths, stderr = infer("--audio", str(tmp_path / "mute.mp4"))
    assert code == 2 and not paths and "mute.mp4: a video without a sound track" in errors(stderr)[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--audio is missing"),
        ("--audio DOG --prompt dog", "--prompt"),
        (f"--audio DOG --prompt {'a' * 75}<*>", "76 tokens"),
        (f"--audio DOG --text {'a' * 76}", "76 tokens"),
        ("--audio DOG --mix 0.5", "--mix needs --text"),
        ("--audio DOG --text a --mix 2", "--mix must be from 0 to 1"),
        ("--audio DOG --hop 1", "--hop needs --window"),
        ("--audio DOG --window 0.15", "--window must be at least 0.2 s"),
        ("--audio DOG --window 1 --together", "--together"),
        ("--audio DOG --span 0-0.2,0.3-", "--span takes the start and end of one part"),
        ("--audio DOG --span 2-1", "2-1 is reversed"),
        ("--audio DOG --span 0.1-9", "--span 0.1-9 lies outside the sound, which lasts 0.5 s"),
        ("--audio DOG --negative_audio none.wav", "--negative_audio none.wav: no such sound file (or write noise)"),
        (f"--audio DOG --negative_audio noise --negative_text {'a' * 75}", "76 tokens"),
        ("--audio DOG --negative_text dull<*>", "--negative_text has <*>, the place of --negative_audio"),
        ("--audio DOG --strength 0.5", "--strength needs --init_image"),
        ("--audio DOG --init_image none.png", "--init_image none.png"),
        ("--audio DOG --init_image DOG", "dog.wav: not a readable image"),
        ("--audio DOG --height 33", "--height must be a multiple of 8"),
        ("--audio DOG --audio_strength 3", "--audio_strength must be from 0 to 2"),
        ("--audio DOG --scheduler flow-euler", "no scheduler 'flow-euler'"),
        ("--audio DOG --dtype float16", "--dtype float16 is for GPUs"),
        ("--audio DOG --stable_diffusion nowhere/at/all", "--stable_diffusion nowhere/at/all"),
        ("--audio DOG --duration 3", "--duration"),
    ],
)
def test_what_is_refused(infer: Infer, dog: str, tmp_path: Path, flags: str, message: str) -> None:
    code, paths, stderr = infer(*flags.replace("DOG", dog).split())
    (line,) = errors(stderr)
    assert code == 2 and not paths and message in line, line
    assert not list((tmp_path / "out").glob("*"))


def test_folders_that_do_not_fit(infer: Infer, dog: str, tmp_path: Path, tiny_stable_diffusion: Path) -> None:
    code, _, stderr = infer("--audio", dog, width=48)
    assert code == 2 and "have width 48" in stderr
    code, _, stderr = infer("--audio", dog, checkpoint=tiny_stable_diffusion)
    assert code == 2 and "not an exported folder of a2i/audiotoken: holds StableDiffusionPipeline" in stderr
    (tmp_path / "audio_to_image.json").write_text('{"recipe": "s2i/wavy"}')
    code, _, stderr = infer("--audio", dog, checkpoint=tmp_path)
    assert code == 2 and "made by s2i/wavy" in stderr


def test_nan_is_exit_code_1_and_no_file(
    infer: Infer, dog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import UNet2DConditionModel

    forward = UNet2DConditionModel.forward
    monkeypatch.setattr(
        UNet2DConditionModel, "forward", lambda self, *a, **k: (forward(self, *a, **k)[0] * float("nan"),)
    )
    code, paths, stderr = infer("--audio", dog, "--dtype", "bfloat16")
    (line,) = errors(stderr)
    assert code == 1 and not paths and "NaN in bfloat16" in line and "--dtype float32" in line
    assert not list((tmp_path / "out").iterdir())


def test_rejections_of_the_safety_checker_are_counted(
    infer: Infer, dog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionPipeline

    refuse = lambda self, image, device, dtype: (image, [True, False])  # noqa: E731
    monkeypatch.setattr(StableDiffusionPipeline, "run_safety_checker", refuse)
    code, paths, stderr = infer("--audio", dog, "--num_samples", "2")
    assert code == 0 and [path.name for path in paths] == ["dog_1.png"]
    assert "the safety checker rejected 1 pictures" in stderr


def test_a_lora_of_the_exported_folder_is_used(infer: Infer, dog: str, exported: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    source = json.loads((exported / "audio_to_image.json").read_text())["stable_diffusion"]
    weights = load_file(Path(source) / "unet" / "diffusion_pytorch_model.safetensors")
    name = next(key for key in sorted(weights) if key.endswith("attn2.to_v.weight")).removesuffix(".weight")
    rows, columns = weights[f"{name}.weight"].shape
    pair = {"lora_A": torch.randn(2, columns), "lora_B": torch.randn(rows, 2)}
    folder = Path(shutil.copytree(exported, tmp_path / "with lora"))
    (folder / "lora").mkdir()
    save_file({f"unet.{name}.{key}.weight": value for key, value in pair.items()},
              folder / "lora" / "pytorch_lora_weights.safetensors")  # fmt: skip
    (plain,), (changed,) = infer("--audio", dog)[1], infer("--audio", dog, checkpoint=folder)[1]
    assert facts_of(changed)["trained_lora"] is True and np.abs(pixels(plain) - pixels(changed)).max() > 0


@pytest.fixture
def write_lora(exported: Path) -> Callable[..., None]:
    """write_lora(file, scale, kohya, **header): write a LoRA of every layer as the LCM-LoRAs of the hub.

    Rank 2, alpha 1; `kohya` false: the same by peft's names, with the factor in its weights.
    """
    import torch
    from diffusers import UNet2DConditionModel
    from safetensors.torch import save_file

    source = json.loads((exported / "audio_to_image.json").read_text())["stable_diffusion"]
    unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet")

    def write(file: Path, scale: float = 0.1, kohya: bool = True, **header: str) -> None:
        torch.manual_seed(0)
        weights: dict[str, Any] = {}
        for name, layer in unet.named_modules():
            if type(layer) in (torch.nn.Linear, torch.nn.Conv2d):
                outputs, inputs, *kernel = layer.weight.shape
                down, up = torch.randn(2, inputs, *kernel) * scale, torch.randn(outputs, 2, *[1] * len(kernel)) * scale
                if kohya:
                    short = f"lora_unet_{name.replace('.', '_')}"
                    weights |= {f"{short}.lora_down.weight": down, f"{short}.lora_up.weight": up}
                    weights[f"{short}.alpha"] = torch.tensor(1.0)
                else:
                    weights |= {f"unet.{name}.lora_A.weight": down / 2, f"unet.{name}.lora_B.weight": up}
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, file, header or None)

    return write


def test_lora_formats_of_other_tools(infer: Infer, dog: str, write_lora: Any, tmp_path: Path) -> None:
    write_lora(tmp_path / "kohya.safetensors")
    write_lora(tmp_path / "style" / "pytorch_lora_weights.safetensors", kohya=False)
    plain = infer("--audio", dog)[1][0]
    code, (kohya,), stderr = infer("--audio", dog, "--lora", str(tmp_path / "kohya.safetensors"))
    assert code == 0, stderr
    folder = infer("--audio", dog, "--lora", str(tmp_path / "style"))[1][0]
    none = infer("--audio", dog, "--lora", str(tmp_path / "style"), "--lora_scale", "0")[1][0]
    assert np.abs(pixels(plain) - pixels(kohya)).mean() > 1 and np.abs(pixels(plain) - pixels(none)).max() == 0
    assert np.abs(pixels(kohya) - pixels(folder)).max() <= 1
    facts = facts_of(folder)
    assert (facts["lora"], facts["lora_scale"], facts["preset"]) == (str(tmp_path / "style"), 1.0, "balanced")


def test_an_lcm_lora_brings_its_sampler(infer: Infer, dog: str, write_lora: Any, tmp_path: Path) -> None:
    file = tmp_path / "lcm-lora-sdv1-5" / "pytorch_lora_weights.safetensors"
    write_lora(file)
    lcm = ["--audio", dog, "--lora", str(file.parent)]
    code, (png,), stderr = infer(*lcm, "--num_steps", "4")
    assert code == 0 and "an LCM-LoRA, used with 4 steps and without guidance, as by --preset turbo" in stderr
    facts = facts_of(png)
    names = ("scheduler", "preset", "num_steps", "guidance_scale")
    assert [facts[name] for name in names] == ["LCMScheduler", "turbo", 4, 1.0]
    again, guided = infer(*lcm, "--preset", "turbo")[1][0], infer(*lcm, "--guidance_scale", "1.5")[1][0]
    assert np.abs(pixels(again) - pixels(png)).max() <= 1 and facts_of(guided)["guidance_scale"] == 1.5
    other = facts_of(infer(*lcm, "--preset", "balanced")[1][0])
    assert [other[name] for name in names[:2]] == ["UniPCMultistepScheduler", "balanced"]
    drawn = facts_of(infer(*lcm, "--scheduler", "ddim")[1][0])
    assert [drawn[name] for name in names[:2]] == ["DDIMScheduler", None]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lora absent.safetensors", "--lora absent.safetensors: no such file"),
        ("--lora ./absent", "--lora ./absent: no such folder"),
        ("--lora some-body/no-such-lora", "--lora some-body/no-such-lora: neither a folder nor available from the hub"),
        ("--lora empty", "empty: no pytorch_lora_weights.safetensors in it"),
        ("--lora cut.safetensors", "cut.safetensors: cut, damaged or no safetensors file"),
        ("--lora sdxl.safetensors", "sdxl.safetensors: belongs to another network: this U-Net has no input_blocks_4"),
        ("--lora lcm.safetensors --guidance_scale 7", "an LCM-LoRA takes a guidance scale of at most 2, got 7"),
        ("--lora lcm.safetensors --num_steps 60", "an LCM-LoRA takes 1 to 50 steps, got 60"),
        ("--lora lcm.safetensors --negative_text dull", "takes no negative text or sound without guidance"),
        ("--lora lcm.safetensors --preset turbo --scheduler ddim", "ddim: the preset turbo has a sampler of its own"),
        ("--preset turbo", "turbo: this Stable Diffusion has no LoRA for few steps"),
        ("--lora_scale 0.5", "--lora_scale needs --lora"),
    ],
)
def test_loras_that_cannot_be_used(
    infer: Infer, dog: str, write_lora: Any, tmp_path: Path, flags: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    save_file({"lora_unet_input_blocks_4_0.lora_down.weight": torch.ones(1)}, tmp_path / "sdxl.safetensors")
    if "lcm" in flags:
        write_lora(tmp_path / "lcm.safetensors")
    code, paths, stderr = infer("--audio", dog, *flags.split())
    assert code == 2 and not paths and message in stderr and len(errors(stderr)) == 1, stderr


@pytest.fixture
def turbo(exported: Path, write_lora: Any, tmp_path: Path) -> str:
    """A Stable Diffusion with the preset "turbo"; next to it "model", which prefers it."""
    source = json.loads((exported / "audio_to_image.json").read_text())["stable_diffusion"]
    folder = Path(shutil.copytree(source, tmp_path / "with turbo"))
    write_lora(folder / "turbo" / "pytorch_lora_weights.safetensors", kohya=False, steps="4", guidance_scale="4.0")
    settings = json.loads((exported / "audio_to_image.json").read_text()) | {"preset": "turbo"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "audio_to_image.json").write_text(json.dumps(settings | {"stable_diffusion": str(folder)}))
    return str(folder)


def test_the_preset_turbo_is_the_default_of_a_model_that_prefers_it(infer: Infer, dog: str, turbo: str) -> None:
    plain = facts_of(infer("--audio", dog, "--stable_diffusion", turbo)[1][0])
    assert plain["preset"] == "balanced"
    infer, draw = partial(infer, checkpoint=Path(turbo).parent / "model"), ["--audio", dog]
    code, (png,), stderr = infer(*draw, "--num_steps", "4")
    assert code == 0 and "is not possible" not in stderr
    facts = facts_of(png)
    names = ("scheduler", "preset", "num_steps", "guidance_scale", "lora")
    assert [facts[name] for name in names] == ["LCMScheduler", "turbo", 4, 1.0, None]
    for flags in (["--negative_text", "dull"], ["--guidance_scale", "3"], ["--num_steps", "3"], ["--init_image", dog]):
        if flags[1] == dog:
            flags[1] = str(png)
        code, (other,), stderr = infer(*draw, *flags)
        named = " ".join(flags) if flags[0] == "--num_steps" else flags[0]
        assert code == 0 and f"{named} is not possible with the preset turbo" in stderr
        assert facts_of(other)["preset"] == "balanced"
    chosen = ["--preset", "turbo", "--init_image", str(png), "--window", "0.25"]
    code, paths, stderr = infer(*draw, *chosen)
    assert code == 0 and len(paths) == 3 and facts_of(paths[0])["preset"] == "turbo", stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--guidance_scale 3", "has guidance of 4 built in, and takes a guidance scale of at most 1, got 3"),
        ("--num_steps 3", "takes 1, 2, 4 steps, got 3"),
        ("--negative_audio noise", "takes no negative text or sound"),
    ],
)
def test_flags_that_the_preset_turbo_does_not_take(
    infer: Infer, dog: str, turbo: str, flags: str, message: str
) -> None:
    code, paths, stderr = infer("--audio", dog, "--stable_diffusion", turbo, "--preset", "turbo", *flags.split())
    assert code == 2 and not paths and message in stderr and len(errors(stderr)) == 1, stderr
