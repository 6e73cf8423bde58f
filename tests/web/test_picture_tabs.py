"""Tabs with pictures: the options of the command line, mistakes, and the same bytes after a stop."""

import argparse
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio.data_classes import ImageData
from PIL import Image

from sonolume.bins import inference
from sonolume.config.load import recipe_module
from sonolume.models.progress import Step
from sonolume.utils import audio, cli
from sonolume.utils.errors import UserError
from sonolume.web import generation
from sonolume.web.controls import OWN, picture_input
from sonolume.web.generation import Generation
from sonolume.web.limits import check_span
from sonolume.web.page import Page
from sonolume.web.settings import Settings
from sonolume.web.tabs import picture_to_sound, sound_to_picture, speech_to_picture

SAMPLER = [OWN, 0, 0, "", OWN]  # preset, steps, guidance, negative text, scheduler
DRAWING = ["", "", 0.5, ""]  # prompt, text, mix, span
SEED = [3, False, 1]  # seed, whether it is drawn, samples
AUDIOTOKEN, AUDIO2IMG, WAVY, IM2WAV = "a2i/audiotoken", "a2i/audio2img", "s2i/wavy", "i2a/im2wav"


class RecordingPage(Page):
    """A page that notes the handlers, and the options of a generation in place of generating."""

    def connect(self, handler: Callable[..., Any], *inputs: Any, **settings: Any) -> None:
        self.__dict__.setdefault("handlers", {})[handler.__name__] = handler

    def run(
        self, recipe: str, title: str, make_options: Callable[..., Any], seed: float | None, random_seed: bool,
        history: list[Any],
    ) -> Iterator[Any]:  # fmt: skip
        yield recipe, title, make_options(output_dir=Path("outputs"), checkpoint=None, device="auto", dtype="float32",
                                          seed=seed)  # fmt: skip


def build(kind: type[Page], folder: Path) -> Page:
    with gr.Blocks():
        page = kind(Settings(max_seconds=20), Generation(Settings(device="cpu"), folder))
        for tab in (sound_to_picture, picture_to_sound, speech_to_picture):
            tab.build(page)
    return page


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of uploads, with a sound, a long one, a transparent picture and a video's first bytes."""
    folder = tmp_path_factory.mktemp("gradio")
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    audio.save_wav(folder / "a sound.wav", noise, 16000)
    audio.save_wav(folder / "long.wav", np.tile(noise, 21), 16000)
    Image.new("RGBA", (32, 16), (200, 10, 10, 90)).save(folder / "red.png")
    (folder / "text.wav").write_text("not a sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def call(uploads: Path) -> Callable[..., tuple[str, str, Any]]:
    """call(handler, values...) -> recipe, title and options; texts that end in a suffix of a file are uploads."""
    handlers: dict[str, Any] = build(RecordingPage, uploads).__dict__["handlers"]

    def run(name: str, *values: Any) -> tuple[str, str, Any]:
        files = [str(uploads / one) if str(one).endswith((".wav", ".png", ".mp4")) else one for one in values]
        (made,) = handlers[name](*files, [])
        return made

    return run


def parsed(recipe: str, *argv: str) -> Any:
    """Options of run_inference.sh for the same flags."""
    parser, kind = argparse.ArgumentParser(), recipe_module(recipe).InferenceOptions
    kind.add_arguments(parser)
    return kind.from_arguments(parser.parse_args(list(argv)))


@pytest.mark.parametrize("recipe", [AUDIOTOKEN, AUDIO2IMG])
def test_sound_to_picture_has_the_options_of_the_command_line(call: Any, uploads: Path, recipe: str) -> None:
    sound = str(uploads / "a sound.wav")
    plain = call("sound_to_picture", "a sound.wav", recipe, *DRAWING, 0, 0, *SEED, *SAMPLER)
    assert plain[0] == recipe and plain[1].startswith("a sound.wav")
    assert plain[2] == parsed(recipe, "--audio", sound, "--seed", "3")
    drawing, sampler = ["an oil painting of <*>", "rain", 0.25, "0.2-0.9"], ["fast", 7, 2.5, "blurry", "euler"]
    many = call("sound_to_picture", "a sound.wav", recipe, *drawing, 1, 0.5, 3, False, 2, *sampler)[2]
    assert many == parsed(
        recipe, "--audio", sound, "--seed", "3", "--prompt", "an oil painting of <*>", "--text", "rain", "--mix",
        "0.25", "--span", "0.2-0.9", "--window", "1", "--hop", "0.5", "--num_samples", "2", "--preset", "fast",
        "--num_steps", "7", "--guidance_scale", "2.5", "--negative_text", "blurry", "--scheduler", "euler",
    )  # fmt: skip


def test_speech_to_picture_has_the_options_of_the_command_line(call: Any, uploads: Path) -> None:
    recipe, title, options = call("speech_to_picture", "a sound.wav", "<*> at night", "", 0.5, "0.5-", *SEED, *SAMPLER)
    flags = "--audio", str(uploads / "a sound.wav"), "--seed", "3", "--prompt", "<*> at night", "--span", "0.5-"
    assert (recipe, title) == (WAVY, "a sound.wav <*> at night") and options == parsed(WAVY, *flags)


def test_picture_to_sound_has_the_options_of_the_command_line(call: Any, uploads: Path) -> None:
    picture = call("picture_to_sound", "red.png", None, "", 0, True, True, *SEED, 0, 1, 0, 0, "")[2]
    assert picture == parsed(IM2WAV, "--image", str(uploads / "red.png"), "--seed", "3", "--level", "low")
    words = call("picture_to_sound", None, None, "a dog", 4, True, False, *SEED, 2, 0.5, 9, 0, "rain")
    assert words[:2] == (IM2WAV, "a dog")
    assert words[2] == parsed(IM2WAV, "--text", "a dog", "--seed", "3", "--duration", "4", "--guidance_scale", "2",
                              "--temperature", "0.5", "--top_k", "9", "--negative_text", "rain")  # fmt: skip


def test_a_video_is_written_with_its_new_sound(call: Any, uploads: Path, root: Path) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    shutil.copy(root / "egs/i2a/im2wav/examples/dog.mp4", uploads)
    for mux, flags in ((True, ["--mux"]), (False, [])):
        options = call("picture_to_sound", None, "dog.mp4", " ", 0, mux, False, *SEED, 0, 1, 0, 0, "")[2]
        assert options == parsed(IM2WAV, "--video", str(uploads / "dog.mp4"), "--seed", "3", *flags)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, AUDIOTOKEN, *DRAWING, 0, 0], "there is no sound"),
        (["long.wav", AUDIOTOKEN, *DRAWING, 0, 0], "long.wav: is 21.0 s long, at most 20 s"),
        (["text.wav", AUDIOTOKEN, *DRAWING, 0, 0], "text.wav: not a"),
        (["/etc/passwd", AUDIOTOKEN, *DRAWING, 0, 0], "no longer on the server"),
        (["a sound.wav", "tta/audioldm", *DRAWING, 0, 0], "recipe 'tta/audioldm' is none of a2i/audiotoken"),
        (["a sound.wav", AUDIOTOKEN, "a photo", "", 0.5, "", 0, 0], "has no <"),
        (["a sound.wav", AUDIOTOKEN, "<*>" * 200, "", 0.5, "", 0, 0], "prompt has 600 characters"),
        (["a sound.wav", AUDIOTOKEN, "", "", 2, "", 0, 0], "mix must be from 0 to 1"),
        (["a sound.wav", AUDIOTOKEN, "", "", 0.5, "9-3", 0, 0], "9-3 is reversed"),
        (["a sound.wav", AUDIOTOKEN, "", "", 0.5, "0-1,2-3", 0, 0], "one part"),
        (["a sound.wav", AUDIOTOKEN, *DRAWING, 0.1, 0], "window must be from 0.5"),
        (["a sound.wav", AUDIOTOKEN, *DRAWING, 5, 0.01], r"hop .* must be from 0.5"),
        (["a sound.wav", AUDIOTOKEN, *DRAWING, "many", 0], "window must be a number"),
    ],
)
def test_mistakes_with_sounds(call: Any, values: list[Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        call("sound_to_picture", *values, *SEED, *SAMPLER)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([None, None, "  ", 0, True, False, *SEED, 0, 1, 0, 0, ""], "give one of: a picture, a video, or words"),
        (["red.png", None, "rain", 0, True, False, *SEED, 0, 1, 0, 0, ""], "give one of"),
        (["text.wav", None, "", 0, True, False, *SEED, 0, 1, 0, 0, ""], "not a readable picture"),
        ([None, None, "rain", 21, True, False, *SEED, 0, 1, 0, 0, ""], "duration must be from 0 to 20"),
        ([None, None, "rain", 0, True, False, *SEED, 0, -1, 0, 0, ""], "temperature must be from 0"),
        ([None, None, "rain", 0, True, False, *SEED, 0, 1, 5, 0.5, ""], "exclude each other"),
        ([None, None, "rain", 0, True, False, 3, False, 99, 0, 1, 0, 0, ""], "samples must be from 1 to 8"),
    ],
)
def test_mistakes_with_pictures(call: Any, values: list[Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        call("picture_to_sound", *values)


def test_the_model_gets_the_bytes_of_an_uploaded_picture(uploads: Path) -> None:
    with gr.Blocks():
        image = picture_input(label="Picture")
    path = str(uploads / "red.png")
    assert image.preprocess(ImageData(path=path, orig_name="red.png")) == path
    assert image.preprocess(ImageData(path=str(uploads / "text.wav"))) == str(uploads / "text.wav")  # not opened
    assert image.preprocess(None) is None
    assert image.postprocess(path).path == path  # type: ignore[union-attr]  # sent from a result


@pytest.mark.parametrize(("text", "spans"), [("", []), (None, []), (" 3-6.8 ", [(3.0, 6.8)]), ("3-", [(3.0, None)])])
def test_a_part_of_a_sound(text: str | None, spans: list[Any]) -> None:
    assert check_span("span", text) == spans


def test_a_draft_and_a_full_sound_are_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def generate(model: str, options: Any, on_step: Callable[[Step], None]) -> Iterator[Path]:
        on_step(Step(1, 1, "token"))
        audio.save_wav(options.output_dir / f"{model}.wav", np.zeros(8), 16000)
        yield options.output_dir / f"{model}.wav"

    def load_model(config: Any, options: Any) -> str:
        loaded.append(str(options.level))
        return str(options.level)

    code = SimpleNamespace(load_model=load_model, generate=generate)
    monkeypatch.setattr(generation, "recipe_code", lambda recipe, part: code)
    runs, options = Generation(Settings(), tmp_path), recipe_module(IM2WAV).InferenceOptions
    for level in ("low", "up", "up"):
        list(runs.run(IM2WAV, "rain", partial(options, text=["rain"], level=level)))
    assert loaded == ["low", "up"]


def test_options_that_are_refused_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        next(Generation(Settings(), tmp_path).run(IM2WAV, "", recipe_module(IM2WAV).InferenceOptions))
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "values", "flags"),
    [
        ("sound_to_picture", ["a bell rings.wav", AUDIOTOKEN, *DRAWING, 0, 0, 5, False, 1, *SAMPLER], []),
        ("sound_to_picture", ["a bell rings.wav", AUDIO2IMG, *DRAWING, 0.5, 0, 5, False, 1, *SAMPLER],
         ["--window", "0.5"]),
        ("speech_to_picture", ["a bell rings.wav", *DRAWING, 5, False, 2, *SAMPLER], ["--num_samples", "2"]),
        ("picture_to_sound", ["rain.png", None, "", 0, True, False, 5, False, 1, 0, 1, 0, 0, ""], []),
        ("picture_to_sound", [None, "dog.mp4", "", 0, True, True, 5, False, 1, 0, 1, 0, 0, ""],
         ["--level", "low", "--mux"]),
    ],
)  # fmt: skip
def test_stop_then_the_bytes_of_the_command_line(
    name: str, values: list[Any], flags: list[str], uploads: Path, root: Path, tmp_path: Path, capsys: Any
) -> None:
    """A generation is stopped at its first step; the next one gives the files that run_inference.sh gives."""
    names = [one for one in values if str(one).endswith((".wav", ".png", ".mp4"))]
    files = [next(root.glob(f"egs/*/*/examples/{one}")) for one in names]
    copies = {path.name: str(shutil.copy(path, uploads)) for path in files}
    handlers: dict[str, Any] = {}

    class RealPage(Page):
        def connect(self, handler: Callable[..., Any], *inputs: Any, **settings: Any) -> None:
            handlers[handler.__name__] = handler

    page = build(RealPage, tmp_path / "takes")
    page.generation.folder.mkdir()
    given = [copies.get(one, one) for one in values]
    running = handlers[name](*given, [])
    for _, _, status, _ in running:
        if " of " in str(status):  # a step has ended
            break
    running.close()
    with page.generation.lock:  # held until the stopped one has ended
        assert not list(page.generation.folder.iterdir())
    *_, (paths, seed, _, (take,)) = handlers[name](*given, [])
    assert seed == 5 and [*map(Path, paths)] == take.files

    recipe = next((one for one in values if one in (AUDIOTOKEN, AUDIO2IMG)), WAVY if "speech" in name else IM2WAV)
    (source,) = copies.values()
    kind = {".wav": "--audio", ".png": "--image", ".mp4": "--video"}[Path(source).suffix]
    argv = ["--config", str(root / "egs" / recipe / "exp_config.json"), kind, source, "--seed", "5", "--device", "cpu"]
    assert cli.run(inference.main, [*argv, "--output_dir", str(tmp_path / "shell"), *flags]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed] == [path.name for path in (*take.results, *take.others)]
    for path in printed:
        (same,) = page.generation.folder.glob(f"*/{path.name}")
        assert same.read_bytes() == path.read_bytes()
