"""Sound to sound: the options that its inputs become, and what it refuses."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sonolume.config.tta.audioldm import InferenceOptions
from sonolume.utils import audio, cli
from sonolume.utils.errors import UserError
from sonolume.web.generation import Take
from sonolume.web.settings import Settings

TEXT = "Rain falls, then a bell rings"


class Recorder:
    """Instead of `Generation`: builds the options, and generates nothing."""

    options: Any = None

    def run(self, recipe: str, title: str, make_options: Callable[..., Any]) -> Iterator[Any]:
        self.options = make_options(output_dir=Path("outputs"), checkpoint=None, device="auto", dtype="float32")
        return Take(title, "sound", self.options.seed, (), (), Path("all.zip"), 0.0, ())
        yield


@pytest.fixture(scope="module")
def tab() -> Iterator[SimpleNamespace]:
    """The tab alone on a page, its endpoints, and a recorder of its options."""
    recorder = Recorder()
    gr = pytest.importorskip("gradio")
    from sonolume.web import regions
    from sonolume.web.page import Page
    from sonolume.web.tabs import edit_sound

    with gr.Blocks(analytics_enabled=False) as demo:
        page = Page(Settings(max_seconds=8.0), recorder)  # type: ignore[arg-type]
        with gr.Tab("Sound to sound", id="edit_sound"):
            edit_sound.build(page)
    functions = list(demo.fns.values())
    (handler,) = (one for one in functions if one.api_name == "edit_sound")
    canvas = next(block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "regions")
    yield SimpleNamespace(
        page=page, recorder=recorder, functions=functions, handler=handler, canvas=canvas, waveform=regions.waveform,
        most_peaks=regions.MAX_PEAKS, Error=gr.Error,
    )  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four seconds of noise, silent in the first, in the folder of the uploads."""
    path = tmp_path_factory.mktemp("uploads") / "noise.wav"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 16000).astype(np.float32)
    wave[:16000] = 0
    audio.save_wav(path, wave, 16000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(path.parent))
        yield path


def call(tab: SimpleNamespace, path: Any, **changed: Any) -> list[Any]:
    """Everything that the endpoint yields."""
    given = {
        "mask": "", "text": TEXT, "strength": 0, "duration": 0, "seed": 3, "random_seed": False, "num_samples": 1,
        "preset": None, "num_steps": 0, "guidance_scale": 0, "negative_text": "", "scheduler": None, "history": [],
    } | changed  # fmt: skip
    return list(tab.handler.fn(None if path is None else str(path), **given))


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, []),
        ({"mask": " 1-2, 3.5- "}, ["--mask", "1-2,3.5-"]),
        ({"mask": "1-2", "strength": 0.5, "num_samples": 3}, ["--mask", "1-2", "--strength", ".5", "--num_samples=3"]),
        ({"duration": 6}, ["--continuation", "--duration", "6"]),
        ({"preset": "fast", "num_steps": 4}, ["--preset", "fast", "--num_steps", "4"]),
    ],
)
def test_the_options_are_those_of_the_command_line(
    tab: SimpleNamespace, sound: Path, given: dict[str, Any], flags: list[str]
) -> None:
    parser = cli.parser("inference", "")
    InferenceOptions.add_arguments(parser)
    call(tab, sound, **given)
    flags = ["--init_audio", str(sound), "--text", TEXT, "--seed", "3", *flags]
    assert tab.recorder.options == InferenceOptions.from_arguments(parser.parse_args(flags))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": "1"}, "is not written as START-END"),
        ({"mask": "x-1e9"}, "is not written as START-END"),
        ({"mask": "nan-2"}, "is not written as START-END"),
        ({"mask": "-1-2"}, "is not written as START-END"),
        ({"mask": "2-1"}, "reversed"),
        ({"mask": "1-1"}, "empty"),
        ({"mask": ",".join(["1-2"] * 17)}, "17 regions, at most 16"),
        ({"mask": "3.5-9"}, "3.5-9 ends after the 4 s of the sound"),
        ({"mask": "4-"}, "4- begins after the 4 s of the sound"),
        ({"mask": [["x", 1e9]]}, "mask must be a text"),
        ({"mask": "1-2," * 200}, "at most 300 are read"),
        ({"text": " "}, "text is empty"),
        ({"strength": 1.5}, "strength must be from 0 to 1"),
        ({"strength": float("nan")}, "strength must be a number"),
        ({"duration": 9}, "duration must be from 0 to 8"),
        ({"duration": 3}, "longer than the 4 s of the sound"),
        ({"num_samples": 9}, "samples must be from 1 to 8"),
        ({"preset": "rm -rf"}, "is none of"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tab: SimpleNamespace, sound: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(tab.Error) as caught:
        call(tab, sound, **given)
    text = str(caught.value.message)
    assert message in text and "\n" not in text and str(sound.parent) not in text


def test_without_a_sound(tab: SimpleNamespace) -> None:
    with pytest.raises(tab.Error, match="sound"):
        call(tab, None)


def test_a_sound_is_checked_before_it_is_decoded(tab: SimpleNamespace, sound: Path) -> None:
    long = sound.with_name("long.wav")
    audio.save_wav(long, np.zeros(9 * 16000, np.float32), 16000)
    for path in (long, Path(__file__)):
        with pytest.raises(tab.Error, match="at most 8 s|no longer on the server"):
            call(tab, path)


def test_sixteen_regions_up_to_the_end_are_possible(tab: SimpleNamespace, sound: Path) -> None:
    call(tab, sound, mask=",".join(f"{k / 4}-{k / 4 + 0.25}" for k in range(16)))
    assert len(tab.recorder.options.mask) == 16


def test_the_server_never_reads_the_canvas(tab: SimpleNamespace) -> None:
    readers = [one for one in tab.functions if tab.canvas in one.inputs]
    assert readers and not any(one.fn for one in readers)


def test_results_of_other_tabs_can_be_sent_here(tab: SimpleNamespace) -> None:
    (target,) = tab.page.targets
    assert (target.kind, target.tab, target.component) == ("sound", "edit_sound", tab.handler.inputs[0])


def test_the_waveform_of_a_sound(tab: SimpleNamespace, sound: Path) -> None:
    found = tab.waveform(sound, 60)
    assert found["duration"] == 4 and found["regions"] == [] and len(found["peaks"]) == tab.most_peaks
    assert max(found["peaks"][: tab.most_peaks // 4]) == 0 and max(found["peaks"]) == 1
    assert tab.waveform(sound, 2.5)["duration"] == 2.5  # decodes no more


def test_a_file_that_is_no_sound_has_no_waveform(tab: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "notes.wav"
    path.write_text("no sound")
    with pytest.raises(UserError):
        tab.waveform(path, 60)
