"""The app: `build` makes the page, `launch` serves it; nothing here runs before it is called."""

import atexit
import importlib
import os
import pkgutil
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from sonolume.config.load import recipes
from sonolume.utils.text import message
from sonolume.web.settings import Settings

TABS = ("text_to_sound", "edit_sound", "sound_to_picture", "picture_to_sound", "speech_to_picture", "evaluation")


def prepare_environment() -> Path:
    """Create the folder of uploads and results, which is removed at the end; switch Gradio's telemetry off."""
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)  # missing in the empty volume of a new container
    folder = Path(tempfile.mkdtemp(prefix="sonolume-web-", dir=parent))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def tabs() -> list[tuple[str, ModuleType]]:
    """Tabs whose recipes exist, with their names."""
    package = importlib.import_module("sonolume.web.tabs")
    present = {one.name for one in pkgutil.iter_modules(package.__path__)}
    found = [(name, importlib.import_module(f"sonolume.web.tabs.{name}")) for name in TABS if name in present]
    return [(name, tab) for name, tab in found if set(getattr(tab, "RECIPES", ())) & set(recipes()) or name == TABS[-1]]


def build(settings: Settings, folder: Path) -> Any:
    """Lay out the page; return its `gr.Blocks`.

    Args:
        folder: of the results, below GRADIO_TEMP_DIR.
    """
    import gradio as gr

    from sonolume.web.generation import Generation
    from sonolume.web.page import Page

    with gr.Blocks(title="sonolume", delete_cache=(3600, 24 * 3600), analytics_enabled=False) as demo:
        page = Page(settings, Generation(settings, folder))
        gr.HTML("<h1>sonolume</h1>Sound from words and pictures, pictures from sound and speech.", elem_id="head")
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
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

    demo = build(settings, folder)
    if settings.share:
        message("the app gets a public address through Gradio's servers: only users of --auth_file can log in")
    files = resources.files("sonolume.web")
    font = ["system-ui", "sans-serif"]
    demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path or None,
        share=settings.share,
        auth=settings.users() or None,
        inbrowser=not settings.no_browser and not settings.is_public,
        max_file_size=f"{settings.max_upload_mb}mb",
        show_error=False,
        enable_monitoring=False,
        strict_cors=True,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=["api", "settings"],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
        theme=gr.themes.Soft(primary_hue="indigo", font=font, font_mono=["ui-monospace", "monospace"]),
        css=(files / "page.css").read_text(encoding="utf-8"),
        js=(files / "page.js").read_text(encoding="utf-8"),
        quiet=True,
        prevent_thread_lock=True,
    )
    message(f"sonolume web: {demo.local_url} (Ctrl-C ends it)")
    if wait:
        demo.block_thread()
    return demo
