"""Inference of Im2Wav with a tiny untrained model: lengths, seeds, batches, negatives, films, and killed runs."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sonolume.bins import inference
from sonolume.models import runtime
from sonolume.models.i2a.im2wav import inference as im2wav
from sonolume.models.i2a.im2wav.pipeline import Im2WavPipeline, Request, TokenStore
from sonolume.modules.im2wav.prior import LowPrior
from sonolume.utils import cli

CONFIG = "egs/i2a/im2wav/tiny.json"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        Image.new("RGB", (48, 64), colour).save(folder / f"{name}.png")
    return folder


def run(root: Path, model: Path, *arguments: Any) -> int:
    flags = ["--config", str(root / CONFIG), "--checkpoint", str(model), "--device", "cpu", *map(str, arguments)]
    return cli.run(inference.main, flags)


def waves(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.wav"))}


def test_pictures_become_sounds_of_the_asked_length(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code = run(root, tiny_im2wav, "--image", pictures, "--duration", "3.3", "--num_samples", 2, "--output_dir", out)
    assert code == 0
    found = waves(out)
    assert sorted(found) == ["blue_0", "blue_1", "red_0", "red_1"]
    assert all(wave[-1] == 0 and abs(wave[-100]).max() > 0 for wave in found.values())  # faded out, no click
    assert {len(wave) for wave in found.values()} == {round(3.3 * 16000)}
    assert not np.array_equal(found["red_0"], found["red_1"])
    sidecar = json.loads((out / "red_1.json").read_text())
    assert sidecar["seed"] == 1 and sidecar["image"].endswith("red.png") and (out / "red_1.png").is_file()
    assert not (out / im2wav.UNFINISHED).exists()


def test_a_sound_does_not_depend_on_its_batch(root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path) -> None:
    run(root, tiny_im2wav, "--image", pictures, "--level", "low", "--output_dir", tmp_path / "both")
    run(root, tiny_im2wav, "--image", pictures / "red.png", "--level", "low", "--output_dir", tmp_path / "one")
    assert np.abs(waves(tmp_path / "both")["red_0"] - waves(tmp_path / "one")["red_0"]).max() < 1e-3


def test_compiled_steps_give_the_same_sound(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # needs no C++ compiler
    inputs = ("--image", pictures / "red.png", "--level", "low")
    run(root, tiny_im2wav, *inputs, "--output_dir", tmp_path / "plain")
    assert run(root, tiny_im2wav, *inputs, "--compile", "--output_dir", tmp_path / "compiled") == 0
    assert np.abs(waves(tmp_path / "plain")["red_0"] - waves(tmp_path / "compiled")["red_0"]).max() < 1e-3
    assert run(root, tiny_im2wav, *inputs, "--compile", "--int8", "--output_dir", tmp_path / "int8") == 0


def test_no_compiler_is_one_line(
    root: Path, tiny_im2wav: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("InvalidCxxCompiler: no C++ compiler found\nmore")

    monkeypatch.setattr(runtime, "check_compiler", fail)
    assert run(root, tiny_im2wav, "--text", "a dog barks", "--compile") == 2
    assert "(InvalidCxxCompiler: no C++ compiler found): install" in capsys.readouterr().err


def test_texts_and_negatives(
    root: Path, tiny_im2wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, negative = tmp_path / "plain", tmp_path / "negative"
    inputs = ("--text", "a dog barks", "--level", "low")
    assert run(root, tiny_im2wav, *inputs, "--output_dir", plain) == 0
    assert run(root, tiny_im2wav, *inputs, "--negative_text", "rain on snow", "--output_dir", negative) == 0
    assert capsys.readouterr().err.count("does not know: snow (") == 1
    (name,) = waves(plain)
    assert not np.array_equal(waves(plain)[name], waves(negative)[name])


class Killed(BaseException):
    """Stands in for a signal."""


def test_a_killed_run_continues_after_its_last_window(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ("--image", pictures, "--duration", "6", "--batch_size", 1)
    assert run(root, tiny_im2wav, *flags, "--output_dir", tmp_path / "whole") == 0
    save, count = im2wav.DiskStore.save, [0]

    def dies(self: Any, level: str, tokens: torch.Tensor) -> None:
        save(self, level, tokens)
        count[0] += 1
        if count[0] == 12:  # in the second picture
            raise Killed

    monkeypatch.setattr(im2wav.DiskStore, "save", dies)
    out = tmp_path / "broken"
    with pytest.raises(Killed):
        run(root, tiny_im2wav, *flags, "--output_dir", out)
    assert list(waves(out)) == ["blue_0"] and "continuing" not in capsys.readouterr().err
    count[0] = -1000
    assert run(root, tiny_im2wav, *flags, "--output_dir", out) == 0
    assert capsys.readouterr().err.count("continuing a run") == 1
    assert 0 < 1000 + count[0] < 10  # not all windows were sampled again
    for name, wave in waves(tmp_path / "whole").items():
        assert np.array_equal(wave, waves(out)[name])
    assert len(waves(out)) == 2 and not (out / im2wav.UNFINISHED).exists()


def test_a_run_killed_while_it_writes_makes_no_second_file(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--image", pictures, "--level", "low", "--output_dir", tmp_path)
    draw, count = im2wav.spectrogram_png, [0]

    def dies(*arguments: Any, **named: Any) -> None:
        count[0] += 1
        if count[0] == 2:  # after the wav of the second picture
            raise Killed
        draw(*arguments, **named)

    monkeypatch.setattr(im2wav, "spectrogram_png", dies)
    with pytest.raises(Killed):
        run(root, tiny_im2wav, *flags)
    assert sorted(waves(tmp_path)) == ["blue_0", "red_0"] and not (tmp_path / "red_0.json").read_bytes()
    assert run(root, tiny_im2wav, *flags) == 0
    assert sorted(waves(tmp_path)) == ["blue_0", "red_0"] and (tmp_path / "red_0.json").is_file()


def test_equal_commands_at_once_share_nothing(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a film is written, the same command runs in the same folder from the beginning to the end."""
    shutil.copy(root / "egs/i2a/im2wav/examples/dog.mp4", pictures)
    out = tmp_path / "out"
    (out / "dog_0").mkdir(parents=True)
    (out / "dog_0.mp4").touch()  # somebody else's
    flags = ("--video", pictures / "dog.mp4", "--duration", "2.5", "--mux", "--level", "low", "--output_dir", out)
    draw = im2wav.spectrogram_png

    def runs_meanwhile(*arguments: Any, **named: Any) -> None:
        monkeypatch.setattr(im2wav, "spectrogram_png", draw)
        assert run(root, tiny_im2wav, *flags) == 0
        draw(*arguments, **named)

    monkeypatch.setattr(im2wav, "spectrogram_png", runs_meanwhile)
    assert run(root, tiny_im2wav, *flags) == 0
    files = {f"dog_0-{number}{suffix}" for number in (2, 3) for suffix in (".wav", ".png", ".json", ".mp4")}
    assert {path.name for path in out.iterdir()} == files | {"dog_0", "dog_0.mp4"}
    assert [json.loads((out / f"dog_0-{number}.json").read_text())["muxed"] for number in (2, 3)] == [
        "dog_0-2.mp4", "dog_0-3.mp4"]  # fmt: skip


def animate(path: Path, frames: int) -> None:
    """Write an animated picture with half a second for each frame."""
    first, *rest = (Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(frames))
    first.save(path, save_all=True, append_images=rest, duration=500, lossless=True)


def test_equal_pictures_have_their_own_results(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "copy.png").write_bytes((pictures / "red.png").read_bytes())
    flags = ("--image", pictures, "--level", "low", "--batch_size", 1, "--output_dir", tmp_path / "out")
    assert run(root, tiny_im2wav, *flags) == 0
    assert sorted(waves(tmp_path / "out")) == ["blue_0", "copy_0", "red_0"]


def test_folders_of_videos_include_animated_pictures(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path
) -> None:
    animate(pictures / "moving.webp", 5)
    out = tmp_path / "out"
    assert run(root, tiny_im2wav, "--video", pictures, "--level", "low", "--output_dir", out) == 0
    found = waves(out)
    assert list(found) == ["moving_0"] and len(found["moving_0"]) == 2.5 * 16000


def test_the_key_of_a_killed_run_covers_inputs_and_weights(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    make = im2wav.DiskStore.__init__
    monkeypatch.setattr(im2wav.DiskStore, "__init__", lambda self, folder, key, bar: keys.append(key) or make(
        self, folder, key, bar))  # fmt: skip
    model = shutil.copytree(tiny_im2wav, tmp_path / "model")
    flags = ("--image", pictures / "red.png", "--level", "low", "--output_dir", tmp_path / "out")
    for _ in range(2):
        run(root, model, *flags)
    low = LowPrior.from_pretrained(model / "low")
    low.transformer.places.data += 1
    low.save_pretrained(model / "low")
    run(root, model, *flags)
    assert keys[0] == keys[1] != keys[2]


def test_every_level_continues_exactly(tiny_im2wav: Path) -> None:
    pipe = Im2WavPipeline.from_pretrained(tiny_im2wav)
    request = Request(torch.randn(2, 100, 16), [3, 4], 70000)
    store = TokenStore()
    whole = pipe(request, store=store)
    assert whole.shape == (2, 70000)
    for level, size in (("low", 40), ("up", 160)):
        part = TokenStore()
        part.levels = store.levels | {level: store.levels[level][:, :size]}
        assert torch.equal(pipe(request, store=part), whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--image"),
        (("--image", "absent.png"), "absent.png"),
        (("--image", "{pictures}", "--mux"), "--video"),
        (("--image", "{pictures}", "--top_k", "5", "--top_p", "0.5"), "--top_k"),
        (("--image", "{pictures}", "--negative_scale", "2"), "--negative_scale"),
        (("--image", "{pictures}", "--duration", "601"), "601"),
        (("--text", " "), "--text"),
        (("--video", "{pictures}/red.png"), "red.png: a still picture"),
        (("--video", "{pictures}"), "contains no videos"),
        (("--video", "{root}/egs/i2a/im2wav/examples/dog.mp4", "--duration", "600"), "dog.mp4"),
        (("--video", "{root}/tests/goldens", "--mux"), "contains no videos"),
        (("--video", "{pictures}/moving.webp", "--mux"), "moving.webp: a picture"),
    ],
)
def test_mistakes_are_one_line(
    root: Path, tiny_im2wav: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    given = [one.replace("{pictures}", str(pictures)).replace("{root}", str(root)) for one in arguments]
    if "moving" in " ".join(given):
        animate(pictures / "moving.webp", 2)
    assert run(root, tiny_im2wav, *given, "--output_dir", tmp_path / "never") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and message in errors[0]
