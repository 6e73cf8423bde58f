"""One running app for all tests of a session, and a page of a headless Chromium."""

import asyncio
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.web.server import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
             "--use-fake-device-for-media-stream"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def closed_event_loops() -> Iterator[None]:
    """Close the event loops that Gradio makes for each page and leaves open, which would be a ResourceWarning."""
    made, new = list[asyncio.AbstractEventLoop](), asyncio.new_event_loop

    def record() -> asyncio.AbstractEventLoop:
        made.append(new())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", record)
        yield
    for loop in made:
        loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the app with the shipped models, a process of its own."""
    one = Server(tmp_path_factory.mktemp("web"))
    try:
        yield one.wait().url
    finally:
        one.end(signal.SIGTERM)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: make browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)


@pytest.fixture
def browser_page(browser: Any) -> Iterator[Any]:
    """A new page, 1280 by 900, with a clipboard and a microphone of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()
