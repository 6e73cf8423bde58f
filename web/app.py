"""The app: `build` makes the page, `launch` serves it; nothing here runs before it is called."""

import atexit
import contextlib
import importlib
import os
import pkgutil
import shutil
import socket
import tempfile
import threading
import time
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sonolume.config.load import recipes
from sonolume.utils.errors import UserError
from sonolume.utils.text import message
from sonolume.web.settings import Settings

if TYPE_CHECKING:
    from sonolume.web.generation import Generation

TABS = ("text_to_sound", "edit_sound", "sound_to_picture", "picture_to_sound", "speech_to_picture", "evaluation")
CHECK_INTERVAL = 10.0  # seconds
END_SECONDS = 20.0  # in which a generation ends with its step, and the server with its answers
MAX_SESSIONS = 100  # whose results are kept on their pages, those of the latest use; each takes about 0.5 MB
PREFIX, LOCK = "sonolume-web-", ".lock"  # of the folder of one server, and in it


def prepare_environment() -> Path:
    """Create the folder of uploads and results, which is removed at the end; only our flags decide what Gradio does."""
    from PIL import Image

    from sonolume.web.uploads import MAX_PIXELS

    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).resolve()
    parent.mkdir(parents=True, exist_ok=True)  # missing in the empty volume of a new container
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _remove_abandoned(parent, folder)
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:  # such as GRADIO_ALLOWED_PATHS
        del os.environ[name]
    os.environ["GRADIO_TEMP_DIR"] = os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Gradio opens pictures, too; Pillow refuses twice this number
    return folder


def _remove_abandoned(parent: Path, folder: Path) -> None:
    """Hold the lock of `folder` until the process ends; remove the folders of servers that were killed."""
    from sonolume.utils.cache import fcntl

    if fcntl is None:  # on Windows
        return
    fcntl.flock(os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)  # never closed
    for other in parent.glob(f"{PREFIX}*"):
        if other.lstat().st_uid != os.getuid():
            continue
        with contextlib.suppress(OSError), (other / LOCK).open("r") as held:  # of a running server, or just gone
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)


def tabs() -> list[tuple[str, ModuleType]]:
    """Tabs whose recipes exist, with their names."""
    package = importlib.import_module("sonolume.web.tabs")
    present = {one.name for one in pkgutil.iter_modules(package.__path__)}
    found = [(name, importlib.import_module(f"sonolume.web.tabs.{name}")) for name in TABS if name in present]
    return [(name, tab) for name, tab in found if set(getattr(tab, "RECIPES", ())) & set(recipes()) or name == TABS[-1]]


def build(settings: Settings, folder: Path, generation: "Generation | None" = None) -> Any:
    """Lay out the page; return its `gr.Blocks`.

    Args:
        folder: of the results, below GRADIO_TEMP_DIR.
        generation: runs the models; a new one by default.
    """
    import gradio as gr

    from sonolume.web.generation import Generation
    from sonolume.web.page import Page

    with gr.Blocks(title="sonolume", delete_cache=(3600, 24 * 3600), analytics_enabled=False) as demo:
        page = Page(settings, generation or Generation(settings, folder))
        gr.HTML("<h1>sonolume</h1>Sound from words and pictures, pictures from sound and speech.", elem_id="head")
        with gr.Row():
            with gr.Column(scale=7, min_width=320):
                page.tabs.render()
                with page.tabs:
                    for name, tab in tabs():
                        with gr.Tab(tab.TITLE, id=name):
                            tab.build(page if hasattr(tab, "RECIPES") else settings)
            with gr.Column(scale=5, min_width=320, elem_id="results"):
                page.build_results()
        gr.HTML("<p>Uploads and results are kept in the server's temporary folder, deleted after 24 hours and when the "
                "server stops, and never logged.</p>", elem_id="foot")  # fmt: skip
    demo.queue(max_size=settings.max_queue, default_concurrency_limit=4, api_open=False)
    return demo


def launch(settings: Settings, folder: Path, wait: bool = True) -> Any:
    """Serve the page; with `wait`, until the process is interrupted. Returns the `gr.Blocks`."""
    import gradio as gr
    from starlette.middleware import Middleware

    from sonolume.web.generation import Generation
    from sonolume.web.security import Guard

    generation = Generation(settings, folder)
    demo = build(settings, folder, generation)
    if settings.share:
        message("the app gets a public address through Gradio's servers: only users of --auth_file can log in")
    files = resources.files("sonolume.web")
    font = ["system-ui", "sans-serif"]
    guard = Middleware(Guard, settings=settings, folder=folder)
    _check_port(settings)
    demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path or None,
        share=settings.share,
        auth=settings.users() or None,
        inbrowser=not settings.no_browser and not settings.is_public,
        max_file_size=f"{settings.max_upload_mb}mb",
        show_error=False,
        state_session_capacity=MAX_SESSIONS,
        enable_monitoring=False,
        strict_cors=True,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=["api", "settings"],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None, "middleware": [guard]},
        theme=gr.themes.Soft(primary_hue="indigo", font=font, font_mono=["ui-monospace", "monospace"]),
        css=(files / "page.css").read_text(encoding="utf-8"),
        js=(files / "page.js").read_text(encoding="utf-8"),
        quiet=True,
        prevent_thread_lock=True,
    )
    message(f"sonolume web: {demo.local_url} (Ctrl-C ends it)")
    if wait:
        try:
            while demo.is_running:
                generation.delete_old()
                time.sleep(CHECK_INTERVAL)
        finally:  # Ctrl-C and SIGTERM
            generation.stopping.set()
            demo.close(verbose=False)
            _wait_for_threads(demo.server.thread)
    return demo


def _wait_for_threads(server: threading.Thread) -> None:
    """Wait for the generation and the server: a thread that runs while the interpreter ends may abort the process."""
    end = time.monotonic() + END_SECONDS
    for thread in [server, *(one for one in threading.enumerate() if one.name == "generation")]:
        thread.join(max(0.0, end - time.monotonic()))


def _check_port(settings: Settings) -> None:
    """Raise a UserError unless the server can listen; Gradio looks at the port of 127.0.0.1 only."""
    try:
        family, kind, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        where = f"--host {settings.host} --port {settings.port}"
        raise UserError(f"{where}: cannot listen there ({error.strerror}): choose another port or host") from error
