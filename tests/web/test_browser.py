"""Words to sound in Chromium: progress, results, seeds, Stop, players, keyboard and a phone's width."""

import hashlib
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
READY = "Done in"


def generate(page: Any, name: str = "Generate") -> None:
    """Press a button of the open tab, and wait for the result."""
    page.locator("button:visible", has_text=name).first.click()
    page.get_by_text("Done in").wait_for(state="hidden")
    page.get_by_text("Done in").wait_for()


def downloaded(page: Any, number: int = 0) -> dict[str, bytes]:
    """Files in the zip of a result on the page, the newest first."""
    with page.expect_download() as download:
        page.get_by_role("button", name="All files (zip)").nth(number).click()
    with zipfile.ZipFile(download.value.path()) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def wav_of(files: dict[str, bytes]) -> str:
    (wav,) = [content for name, content in files.items() if name.endswith(".wav")]
    return hashlib.sha256(wav).hexdigest()


def test_a_sound_from_words_and_nothing_from_other_hosts(browser_page: Any, server: str) -> None:
    page, requests, errors = browser_page, [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda entry: errors.append(entry.text) if entry.type == "error" else None)
    page.goto(server)
    page.get_by_label("Description of the sound").fill("A dog barks")
    generate(page)
    page.locator("audio, [data-testid='waveform-player'], .waveform-container").first.wait_for(state="attached")
    files = downloaded(page)
    assert sorted(Path(name).suffix for name in files) == [".json", ".png", ".wav"]
    assert not [url for url in requests if not url.startswith((server, "data:", "blob:"))]
    assert not errors
    assert b"/" + Path.home().name.encode() + b"/" not in b"".join(files.values())


def test_again_gives_the_same_bytes_and_vary_the_next_seed(browser_page: Any, server: str) -> None:
    page = browser_page
    page.goto(server)
    generate(page)
    seed = int(page.get_by_label("Seed", exact=True).input_value())
    first = wav_of(downloaded(page))
    generate(page, "Again")
    assert wav_of(downloaded(page)) == first and int(page.get_by_label("Seed", exact=True).input_value()) == seed
    generate(page, "Vary")
    assert int(page.get_by_label("Seed", exact=True).input_value()) == seed + 1
    assert wav_of(downloaded(page)) != first
    assert page.get_by_role("button", name="All files (zip)").count() == 3  # the history


def test_stop_ends_a_generation_and_the_next_one_works(browser_page: Any, server: str) -> None:
    page = browser_page
    page.goto(server)
    page.get_by_text("More settings").first.click()
    page.get_by_label("Steps (0: the sampler's)").first.fill("200")
    page.locator("button:visible", has_text="Generate").first.click()
    page.get_by_text("Denoising step").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    time.sleep(1)
    assert page.get_by_text("Stopped.").is_visible() and not page.get_by_text(READY).is_visible()
    page.get_by_label("Steps (0: the sampler's)").first.fill("0")
    generate(page)


def test_progress_has_a_preview_and_the_time_left(browser_page: Any, server: str) -> None:
    page = browser_page
    page.goto(server)
    page.get_by_text("More settings").first.click()
    page.get_by_label("Steps (0: the sampler's)").first.fill("100")
    page.locator("button:visible", has_text="Generate").first.click()
    page.get_by_text("s left").wait_for()
    page.get_by_alt_text("preview of the unfinished result").wait_for()
    page.get_by_role("button", name="Stop").click()


def test_one_player_at_a_time_and_none_during_a_generation(browser_page: Any, server: str) -> None:
    page = browser_page
    page.add_init_script("""
        window.players = new Set();
        const native = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = function (...given) { players.add(this); return native.apply(this, given); };
    """)
    page.goto(server)
    page.get_by_label("Seconds (0: one clip of the model)").first.fill("30")  # longer than a slow machine takes to look
    generate(page)
    generate(page)
    playing = "[...players].filter(player => !player.paused).length"
    for _ in (0, 1):
        page.get_by_role("button", name="Play", exact=True).nth(0).click()  # that of the other one is named Pause
        page.wait_for_function(f"{playing} == 1")
    page.locator("button:visible", has_text="Generate").first.click()
    page.wait_for_function(f"{playing} == 0")
    page.get_by_role("button", name="Stop").click()


def test_the_keyboard_alone_is_enough(browser_page: Any, server: str) -> None:
    page = browser_page
    page.goto(server)
    page.get_by_label("Description of the sound").focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent.trim()") == "Generate":
            break
    page.keyboard.press("Enter")
    page.get_by_text(READY).wait_for()


def test_a_mistake_is_one_line(browser_page: Any, server: str) -> None:
    page = browser_page
    page.goto(server)
    page.get_by_label("Description of the sound").fill("   ")
    page.locator("button:visible", has_text="Generate").first.click()
    page.get_by_text("text is empty").first.wait_for()
    page.get_by_text("No result: text is empty").wait_for()


@pytest.mark.parametrize("tab", ["Words to sound", "Sound to sound", "Sound to picture", "Picture to sound",
                                 "Speech to picture", "Evaluation"])  # fmt: skip
def test_no_tab_scrolls_sideways_on_a_phone(browser_page: Any, server: str, tab: str) -> None:
    page = browser_page
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(server)
    page.get_by_role("button", name="Generate").first.wait_for()
    if page.get_by_role("tab", name=tab).is_visible():
        page.get_by_role("tab", name=tab).click()
    else:  # in the menu of the tabs that have no room
        page.locator(".overflow-menu button").first.click()
        page.locator(".overflow-dropdown button", has_text=tab).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
