"""Regions on the waveform in Chromium: dragged, typed, generated, cleared, and drawn after a sound is sent to them."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sonolume.bins import inference
from sonolume.utils import audio, cli

pytestmark = pytest.mark.browser
TEXT = "Rain falls, then a bell rings"
SECONDS, RATE = 4, 16000
INSIDE = """(canvas, second) => {  // whether a region is painted there: the background left without a bar
  const pen = canvas.getContext("2d"), x = Math.round(second / 4 * canvas.width);
  const [red, green, blue, alpha] = pen.getImageData(x, 3, 1, 1).data;
  return alpha > 20 && blue > red;
}"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of noise, at a rate that is not the model's."""
    path = tmp_path_factory.mktemp("uploads") / "noise.wav"
    audio.save_wav(path, np.random.default_rng(0).normal(0, 0.1, SECONDS * 22050).astype(np.float32), 22050)
    return path


@pytest.fixture
def tab(browser_page: Any, server: str, sound: Path) -> Any:
    """A page with the tab open, and the sound uploaded."""
    browser_page.goto(server)
    browser_page.get_by_role("tab", name="Sound to sound").click()
    browser_page.locator("input[type=file]:not([webkitdirectory])").first.set_input_files(str(sound))
    browser_page.wait_for_function("document.querySelector('#regions canvas').title == '4 s'")
    return browser_page


def canvas(page: Any) -> Any:
    return page.locator("#regions canvas")


def box(page: Any) -> Any:
    return page.get_by_role("textbox", name="Seconds to replace")


def drag(page: Any, start: float, end: float) -> None:
    """Drag over seconds of the waveform."""
    place = canvas(page).bounding_box()
    first, last = (place["x"] + place["width"] * second / SECONDS for second in (start, end))
    page.mouse.move(first, place["y"] + 40)
    page.mouse.down()
    page.mouse.move((first + last) / 2, place["y"] + 50, steps=3)
    page.mouse.move(last, place["y"] + 40, steps=3)
    page.mouse.up()


def text_becomes(page: Any, pattern: str) -> list[float]:
    """Wait until the text box matches, and return its numbers."""
    given = [box(page).element_handle(), pattern]
    page.wait_for_function("([box, form]) => new RegExp(form).test(box.value)", arg=given)
    return [float(number) for number in re.findall(r"[\d.]+", box(page).input_value())]


def regions_become(page: Any, inside: dict[float, bool]) -> None:
    """Wait until the canvas shows regions at these seconds, and none at those."""
    wanted = "([canvas, inside]) => Object.entries(inside).every(([second, yes]) => (%s)(canvas, +second) == yes)"
    given = {str(second): yes for second, yes in inside.items()}
    page.wait_for_function(wanted % INSIDE, arg=[canvas(page).element_handle(), given])


def generate(page: Any) -> dict[str, bytes]:
    """Press the button, and return the files of the zip."""
    page.locator("button:visible", has_text="Generate").click()
    page.get_by_text("Done in").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="All files (zip)").first.click()
    with zipfile.ZipFile(download.value.path()) as packed:
        return {Path(name).suffix: packed.read(name) for name in packed.namelist()}


def test_two_dragged_regions_give_the_bytes_of_the_command_line(
    tab: Any, sound: Path, root: Path, tmp_path: Path
) -> None:
    drag(tab, 0.5, 1.5)
    drag(tab, 3, SECONDS)
    first, second, third = text_becomes(tab, r"^[\d.]+-[\d.]+,[\d.]+-$")
    assert (first, second, third) == pytest.approx((0.5, 1.5, 3), abs=0.03)
    regions_become(tab, {0.2: False, 1: True, 2: False, 3.5: True})
    mask = box(tab).input_value()
    tab.get_by_label("Description of the whole result").fill(TEXT)
    tab.locator("label:visible", has_text="New seed each time").click()
    files = generate(tab)

    argv = ["--config", str(root / "egs/tta/audioldm/exp_config.json"), "--text", TEXT, "--mask", mask]
    argv += ["--init_audio", str(sound), "--output_dir", str(tmp_path)]
    argv += ["--checkpoint", str(root / "pretrained/mini/text_to_audio"), "--seed", "0"]
    assert cli.run(inference.main, argv) == 0
    (expected,) = tmp_path.glob("*.wav")
    assert files[".wav"] == expected.read_bytes()

    wave, rate = soundfile.read(io.BytesIO(files[".wav"]), dtype="int16")
    audio.save_wav(tmp_path / "resampled.wav", audio.load(sound, rate), rate)
    original, _ = soundfile.read(tmp_path / "resampled.wav", dtype="int16")
    kept = np.ones(len(original), dtype=bool)
    for start, end in ((first, second), (third, float(SECONDS))):
        kept[round(start * rate) : round(end * rate)] = False
    assert len(wave) == len(original) and (wave[kept] == original[kept]).all()
    assert (wave[~kept] != original[~kept]).mean() > 0.9
    assert str(sound.parent).encode() not in files[".json"]


def test_typed_regions_are_drawn_and_nothing_else(tab: Any) -> None:
    box(tab).fill("0.5-1,2.5-")
    regions_become(tab, {0.2: False, 0.75: True, 2: False, 3: True})
    box(tab).fill("0.5-1,x")
    regions_become(tab, {0.75: True, 3: False})
    box(tab).press("Backspace")
    box(tab).press_sequentially("2-3")  # by the keyboard
    regions_become(tab, {0.75: True, 2.5: True, 3.5: False})
    box(tab).fill("0.5-1")
    drag(tab, 2, 3)  # beside those that were typed
    assert text_becomes(tab, r"^0.5-1,[\d.]+-[\d.]+$")[2:] == pytest.approx([2, 3], abs=0.03)


def test_regions_are_joined_moved_and_cleared(tab: Any) -> None:
    drag(tab, 2, 1)
    drag(tab, 1.5, 2.5)
    assert text_becomes(tab, r"^[\d.]+-2.[\d.]+$") == pytest.approx([1, 2.5], abs=0.03)
    drag(tab, 2.5, 3.5)  # its edge
    assert text_becomes(tab, r"^[\d.]+-3.[\d.]+$") == pytest.approx([1, 3.5], abs=0.03)
    canvas(tab).dblclick(position={"x": 20, "y": 40})
    text_becomes(tab, "^$")
    drag(tab, 1, 2)
    text_becomes(tab, "-")
    canvas(tab).focus()
    tab.keyboard.press("Delete")
    text_becomes(tab, "^$")
    regions_become(tab, {1.5: False})


def test_a_mistake_in_the_text_is_one_line(tab: Any) -> None:
    tab.get_by_label("Description of the whole result").fill(TEXT)
    box(tab).fill("3-9")
    tab.locator("button:visible", has_text="Generate").click()
    tab.get_by_text("3-9 ends after the 4 s of the sound").first.wait_for()


def test_a_sound_of_another_tab_is_drawn_here_without_the_old_regions(browser_page: Any, server: str) -> None:
    page = browser_page
    page.goto(server)
    page.locator("button:visible", has_text="Generate").click()
    page.get_by_text("Done in").wait_for()
    page.get_by_role("button", name="Edit").first.click()
    page.wait_for_function("(document.querySelector('#regions canvas')?.title ?? '').endsWith(' s')")
    drag(page, 1, 2)
    text_becomes(page, "-")
    page.get_by_role("tab", name="Words to sound").click()
    page.locator("button:visible", has_text="Generate").click()
    page.get_by_role("button", name="Edit").nth(1).wait_for()
    page.get_by_role("button", name="Edit").first.click()
    canvas(page).wait_for()
    text_becomes(page, "^$")
    regions_become(page, {1.5: False})
    assert canvas(page).evaluate("canvas => canvas.width") > 100


def test_the_canvas_has_a_name_a_visible_focus_and_fits_a_phone(tab: Any) -> None:
    assert "Waveform" in canvas(tab).get_attribute("aria-label")
    tab.keyboard.press("Tab")  # so that the focus counts as that of a keyboard
    canvas(tab).focus()
    assert canvas(tab).evaluate("canvas => getComputedStyle(canvas).outlineStyle") == "solid"
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function("document.querySelector('#regions canvas').width < 390")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
