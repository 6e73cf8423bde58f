"""Tabs with pictures in Chromium: from each input to its result, tags, galleries, and Stop."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sonolume.bins import inference
from sonolume.utils import cli

pytestmark = pytest.mark.browser


@pytest.fixture
def errors(browser_page: Any) -> list[str]:
    """Errors of the scripts in the page; none after each test."""
    found: list[str] = []
    browser_page.on("pageerror", lambda error: found.append(str(error)))
    return found


def open_tab(page: Any, server: str, name: str) -> Any:
    """Open a tab; returns its panel."""
    page.goto(server)
    page.get_by_role("button", name="Generate").first.wait_for()
    page.wait_for_timeout(500)  # tabs without room move into a menu
    show_tab(page, name)
    panel = page.locator("[role=tabpanel]:visible").first
    panel.get_by_role("button", name="Generate").wait_for()
    return panel


def show_tab(page: Any, name: str) -> None:
    if page.get_by_role("tab", name=name).is_visible():
        page.get_by_role("tab", name=name).click()
    else:
        page.locator(".overflow-menu button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()


def upload(page: Any, panel: Any, file: Path, number: int = 0) -> None:
    with page.expect_response(lambda answer: "/upload" in answer.url):
        panel.locator("input[type=file]").nth(number).set_input_files(file)
    page.wait_for_timeout(500)


def generate(page: Any, panel: Any, results: int) -> dict[str, bytes]:
    """Press Generate, wait until the page shows so many results; returns the files of the newest."""
    panel.get_by_role("button", name="Generate").click()
    buttons = page.get_by_role("button", name="All files (zip)")
    buttons.nth(results - 1).wait_for()
    page.get_by_text("Done in").wait_for()
    with page.expect_download() as download:
        buttons.first.click()
    with zipfile.ZipFile(download.value.path()) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def fixed_seed(panel: Any, number: int) -> None:
    panel.get_by_label("New seed each time").uncheck()
    panel.get_by_label("Seed", exact=True).fill(str(number))


def test_a_sound_becomes_tags_a_picture_and_a_sound_again(
    browser_page: Any, server: str, root: Path, errors: list[str]
) -> None:
    page = browser_page
    panel = open_tab(page, server, "Sound to picture")
    upload(page, panel, root / "egs/s2i/wavy/examples/a bell rings.wav")
    panel.get_by_role("button", name="Tags").click()
    panel.get_by_text("%").first.wait_for()
    files = generate(page, panel, 1)
    (picture,) = [content for name, content in files.items() if name.endswith(".png")]
    assert Image.open(io.BytesIO(picture)).size == (64, 64)
    page.locator(".take .picture img").wait_for()
    page.get_by_role("button", name="To sound").click()
    panel = page.locator("[role=tabpanel]:visible").first
    panel.locator("img[src*=take-]").wait_for()
    files = generate(page, panel, 2)
    assert [name for name in files if name.endswith(".wav")]
    page.get_by_role("button", name="To picture").click()
    panel = page.locator("[role=tabpanel]:visible").first
    panel.get_by_label("audio2img").check()
    generate(page, panel, 3)
    assert not errors


def test_a_storyboard_is_a_gallery_whose_selected_picture_can_be_sent(
    browser_page: Any, server: str, root: Path, errors: list[str]
) -> None:
    page = browser_page
    panel = open_tab(page, server, "Sound to picture")
    upload(page, panel, root / "egs/s2i/wavy/examples/rain falls and then a dog barks.wav")
    panel.get_by_label("Storyboard: seconds in a picture (0: off)").first.fill("0.5")
    files = generate(page, panel, 1)
    pictures = [name for name in files if name.endswith(".png")]
    items = page.locator(".gallery button.thumbnail-item")
    assert items.count() == len(pictures) >= 4 and sum("storyboard" in name for name in pictures) == 1
    items.nth(1).click()
    page.get_by_role("button", name="To sound: the selected one").click()
    page.locator("[role=tabpanel]:visible img[src*=_w1_]").first.wait_for()
    show_tab(page, "Speech to picture")
    panel = page.locator("[role=tabpanel]:visible").first
    panel.get_by_text("a bell rings.wav").click()
    generate(page, panel, 2)  # another kind of result in the place of the gallery
    assert not errors


def test_the_model_gets_the_picture_that_was_uploaded(
    browser_page: Any, server: str, tmp_path: Path, root: Path, capsys: Any
) -> None:
    picture = Image.open(root / "egs/i2a/im2wav/examples/siren.png").convert("RGBA")
    picture.putalpha(128)
    picture.save(tmp_path / "siren.webp", lossless=True)
    page = browser_page
    panel = open_tab(page, server, "Picture to sound")
    upload(page, panel, tmp_path / "siren.webp")
    panel.get_by_label("Draft, several times faster").check()
    fixed_seed(panel, 7)
    wav = generate(page, panel, 1)["siren_7.wav"]
    argv = ["--config", str(root / "egs/i2a/im2wav/exp_config.json"), "--image", str(tmp_path / "siren.webp"), "--seed",
            "7", "--level", "low", "--output_dir", str(tmp_path)]  # fmt: skip
    assert cli.run(inference.main, argv) == 0
    assert (tmp_path / "siren_7.wav").read_bytes() == wav


def test_a_video_takes_the_place_of_a_picture_and_is_played_with_its_sound(
    browser_page: Any, server: str, root: Path, errors: list[str]
) -> None:
    page = browser_page
    panel = open_tab(page, server, "Picture to sound")
    upload(page, panel, root / "egs/i2a/im2wav/examples/rain.png")
    upload(page, panel, root / "egs/i2a/im2wav/examples/dog.mp4", number=-1)
    panel.get_by_label("Draft, several times faster").check()
    files = generate(page, panel, 1)
    assert {Path(name).suffix for name in files} == {".wav", ".png", ".json", ".mp4"}
    seconds = "document.querySelector('.take video')?.duration > 2"
    page.wait_for_function(seconds)
    assert not errors


def test_speech_from_the_microphone(browser_page: Any, server: str, errors: list[str]) -> None:
    page = browser_page
    panel = open_tab(page, server, "Speech to picture")
    panel.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    panel.get_by_role("button", name="Stop", exact=True).click()
    panel.get_by_role("button", name="Play", exact=True).wait_for()
    files = generate(page, panel, 1)
    assert [name for name in files if name.endswith(".png")] and not errors


@pytest.mark.parametrize("tab", ["Sound to picture", "Picture to sound", "Speech to picture"])
def test_stop(browser_page: Any, server: str, tab: str) -> None:
    page = browser_page
    panel = open_tab(page, server, tab)
    steps, unit = panel.get_by_label("Steps (0: the sampler's)").first, "Denoising step"
    if tab == "Picture to sound":
        panel.get_by_label("or words in place of a picture").fill("A dog barks")
        unit = "Token"
    else:
        panel.get_by_text("a bell rings.wav").click()
        panel.get_by_role("button", name="Play", exact=True).wait_for()
        panel.get_by_text("More settings").click()
        steps.fill("200")
    panel.get_by_role("button", name="Generate").click()
    page.get_by_text(f"{unit} ").wait_for()
    page.locator("#stop").click()
    page.get_by_text("Stopped.").wait_for(timeout=10_000)
    page.wait_for_timeout(1000)
    assert page.get_by_text("Stopped.").is_visible() and not page.get_by_role("button", name="All files (zip)").count()
    if unit == "Token":
        panel.get_by_label("Draft, several times faster").check()
    else:
        steps.fill("2")
    generate(page, panel, 1)


def test_a_damaged_picture_is_one_line(browser_page: Any, server: str, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    page = browser_page
    panel = open_tab(page, server, "Picture to sound")
    upload(page, panel, tmp_path / "broken.png")
    panel.get_by_role("button", name="Generate").click()
    page.get_by_text("broken.png: not a readable picture").first.wait_for()
