import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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


def test_a_sound_its_picture_and_its_facts(infer: Infer, tmp_path: Path):
    code, (wav,), _ = infer("--text", "a dog barks", "--seed", "3", "--duration", "0.25")
    assert code == 0 and wav == tmp_path / "out" / "a_dog_barks_3.wav"
    assert {path.suffix for path in wav.parent.iterdir()} == {".wav", ".png", ".json"}
    wave, rate = soundfile.read(wav)
    assert (len(wave), rate) == (4000, 16000) and np.abs(wave).max() > 0
    facts = json.loads(wav.with_suffix(".json").read_text())
    assert (facts["text"], facts["seed"], facts["num_steps"]) == ("a dog barks", 3, 2)
    assert (facts["duration"], facts["vocoder"]) == (0.25, "Griffin-Lim")
    assert set(facts["versions"]) == {"sonolume", "torch", "diffusers", "transformers"}


def test_the_seed_decides_and_nothing_is_overwritten(infer: Infer):
    first = infer("--text", "rain")[1][0]
    again = infer("--text", "rain")[1][0]
    other = infer("--text", "rain", "--seed", "1")[1][0]
    assert (first.name, again.name, other.name) == ("rain_0.wav", "rain_0-2.wav", "rain_1.wav")
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


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
        ([], 'needs --text "..."'),
        (["--text", ""], "--text is empty"),
        (["--text", "rain", "--text", " \t"], "--text is empty"),
        (["--text", 10_000 * "x"], "10001 tokens, the text encoder takes 512: shorten it"),
        (["--text", "rain", "--num_step", "3"], "unknown flag --num_step, did you mean --num_steps?"),
        (["--text", "rain", "--audio", "x.wav"], "tta/audioldm has no use for --audio (it takes --text,"),
        (["--text", "rain", "--num_samples", "0"], "--num_samples must be at least 1, got 0"),
        (["--text", "rain", "--batch_size", "-1"], "--batch_size must be at least 1, got -1"),
        (["--text", "rain", "--num_samples", "many"], "--num_samples: invalid int value: 'many'"),
        (["--text", "rain", "--guidance_scale", "nan"], "--guidance_scale must be a finite number"),
        (["--text", "rain", "--seed", "99999999999999999999"], "--seed must be at least 0"),
        (["--text", "rain", "--duration", "60"], "at most 0.512 s (one clip), got 60"),
        (["--text", "rain", "--duration", "0"], "duration must be above 0"),
        (["--text", "rain", "--preset", "best"], "no preset 'best'"),
        (["--text", "rain", "--scheduler", "flow-euler"], "no scheduler 'flow-euler'"),
        (["--text", "rain", "--dtype", "int8"], "--dtype: invalid choice"),
        (["--text", "rain", "--device", "toaster"], "--device toaster: not on this machine"),
        (["--text", "rain", "--device", "cuda:99"], "--device cuda:99: not on this machine"),
        (["--text_file", "/nowhere/texts"], "--text_file /nowhere/texts: No such file"),
        (["--text", "rain", "model.audioldm.num_headz=1"], "did you mean 'num_heads'?"),
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
    assert code == 2 and "texts: not UTF-8 text (byte 15)" in errors(stderr)[0]


def test_the_output_folder_must_be_a_folder(infer: Infer, tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    code, _, stderr = infer("--text", "rain")
    assert code == 2 and "File exists: name a folder that can be written" in errors(stderr)[0]
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("part", ["wav", "png", "json"])
def test_a_full_disk_is_one_line(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str):
    sibling = files._sibling

    def on_a_full_disk(path: Path) -> Path:
        temporary = sibling(path)
        if path.suffix == f".{part}":
            temporary.symlink_to("/dev/full")
        return temporary

    monkeypatch.setattr(files, "_sibling", on_a_full_disk)
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
        ("part", "holds a UNet2DConditionModel, not a TextToAudioPipeline"),
        ("other class", "holds a StableDiffusionPipeline, not a TextToAudioPipeline"),
        ("broken index", "model_index.json: broken JSON"),
        ("list", "model_index.json: holds no settings"),
        ("file", "model_index.json: "),
        ("not a model", "no config.json in it: not an exported model"),
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


def test_the_synthesiser_is_not_used(tiny_config: Callable[..., Path], tiny_checkpoint: Path, tmp_path: Path):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith(('sonolume.preprocessors.miniworld', 'pytorch_lightning')):\n"
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
