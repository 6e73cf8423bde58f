"""The page: tabs to the left, and to the right the progress and the results of all tabs."""

import base64
import html
import io
import os
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from sonolume.utils import paths
from sonolume.utils.errors import ComputationError, UserError
from sonolume.utils.text import printable
from sonolume.web.generation import Generation, Take
from sonolume.web.jobs import Progress, Stopped
from sonolume.web.limits import check_number
from sonolume.web.settings import Settings

LARGEST_SEED = 999_999  # of those that the page draws, short enough to write down
STOP_SECONDS = 0.5
LARGEST_NUMBER = 2**53  # up to which a browser's whole numbers are exact
MAX_TAKES = 10  # results of a session that stay on the page
MAX_SINGLE_PICTURES = 2  # of one result; more are shown in a gallery
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

Outputs = tuple[Any, Any, Any, Any]  # files, seed, status, history


@dataclass(frozen=True)
class Target:
    """An input of a tab to which a result can be sent."""

    label: str  # of the button
    kind: str  # "sound" or "picture"
    tab: str  # id
    component: Any


@dataclass
class Page:
    """What all tabs share. A tab adds its inputs, its events and its targets."""

    settings: Settings
    generation: Generation
    targets: list[Target] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)  # that Stop ends

    def __post_init__(self) -> None:
        self.tabs = gr.Tabs(render=False)
        self.status = gr.HTML(status_html("Ready."), label="Status", render=False, elem_id="status")
        self.files = gr.File(label="Files", file_count="multiple", render=False, interactive=False)
        self.history = gr.State([], render=False)

    def build_results(self) -> None:
        """Lay out the right column; call it after the tabs."""
        self.status.render()
        stop = gr.Button("Stop", variant="stop", elem_id="stop")
        stopping = stop.click(lambda: status_html("Stopping."), outputs=self.status, cancels=self.events, queue=False,
                              **PRIVATE)  # fmt: skip
        stopping.then(_stopped, outputs=self.status, queue=False, **PRIVATE)
        self.history.render()
        gr.render(self.history, show_progress="hidden", queue=False)(self._show_takes)
        with gr.Accordion("Files of the last result", open=False):
            self.files.render()

    def connect(
        self, handler: Callable[..., Iterator[Outputs]], inputs: Sequence[Any], seed: Any, random_seed: Any,
        submit: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        """Add the buttons Generate, Again and Vary, which call a handler; its name is the name in the API.

        Args:
            handler: generator of `Outputs`; its last argument is the history.
            inputs: of the handler, among them `seed` and `random_seed`.
            submit: text boxes in which Enter generates as well.
        """
        with gr.Row():
            button = gr.Button("Generate", variant="primary", scale=2)
            again = gr.Button("Again", min_width=60)
            vary = gr.Button("Vary", min_width=60)
        fixed = [gr.State(False) if one is random_seed else one for one in inputs]
        outputs = [self.files, seed, self.status, self.history]
        common: dict[str, Any] = {
            "outputs": outputs, "concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden",
            "trigger_mode": "once",
        }  # fmt: skip
        triggers = [button.click, *(box.submit for box in submit)]
        name = getattr(handler, "__name__", "generate")
        event = gr.on(triggers, handler, [*inputs, self.history], api_name=name, **common)
        repeat = again.click(handler, [*fixed, self.history], api_visibility="private", **common)
        following = vary.click(lambda number: int(number) + 1, seed, seed, queue=False, **PRIVATE)
        varied = following.then(handler, [*fixed, self.history], api_visibility="private", **common)
        self.events += [event, repeat, varied]

    def run(
        self, recipe: str, title: str, make_options: Callable[..., Any], seed: float | None, random_seed: bool,
        history: list[Take],
    ) -> Iterator[Outputs]:  # fmt: skip
        """Generate with a recipe, and yield the outputs of a handler: progress, then the results.

        Args:
            make_options: builds the recipe's options, given `seed` and the arguments of `Generation.run`.

        Raises:
            gr.Error: see `error_line`.
        """
        number = secrets.randbelow(LARGEST_SEED + 1) if random_seed or seed is None else seed
        yield gr.skip(), number, status_html("Loading the model."), gr.skip()
        try:
            number = check_number("seed", number, 0, LARGEST_NUMBER, whole=True)
            take = yield from self._run(self.generation.run(recipe, title, partial(make_options, seed=number)))
        except Exception as error:
            shown = error_line(error)
            yield gr.skip(), gr.skip(), status_html(f"No result: {shown.message}"), gr.skip()
            raise shown from None
        done = status_html(f"Done in {take.seconds:.1f} s, seed {take.seed}.", 1.0, take.notes)
        yield [str(path) for path in take.files], number, done, [*history, take][-MAX_TAKES:]

    def _run(self, steps: Generator[Progress, None, Take]) -> Generator[Outputs, None, Take]:
        """Show the progress of a generation, and return its results."""
        preview = None
        try:
            while True:
                progress = next(steps)
                preview = progress.preview or preview
                yield gr.skip(), gr.skip(), progress_html(progress, preview), gr.skip()
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _show_takes(self, takes: list[Take]) -> None:
        for take in reversed(takes):
            with gr.Group(elem_classes="take"):
                label = f"{take.kind.capitalize()}, seed {take.seed}, {take.seconds:.1f} s"
                gr.Textbox(take.title, label=label, interactive=False, key=(str(take.archive), "title"))
                if take.kind == "picture" and len(take.results) > MAX_SINGLE_PICTURES:
                    self._show_gallery(take)
                else:
                    for path in take.results:
                        self._show_result(take, path)
                for path in take.others:
                    gr.Video(str(path), label=path.name, interactive=False, buttons=["download"], height=320,
                             key=str(path))  # fmt: skip
                gr.DownloadButton("All files (zip)", str(take.archive), size="sm", key=str(take.archive))

    def _show_result(self, take: Take, path: Path) -> None:
        key = str(path)
        if take.kind == "sound":
            gr.Audio(key, label=path.name, interactive=False, buttons=["download"], key=(key, "player"))
            gr.Image(str(path.with_suffix(".png")), show_label=False, interactive=False, buttons=[], container=False,
                     key=(key, "spectrogram"), elem_classes="spectrogram")  # fmt: skip
        else:
            gr.Image(key, label=path.name, show_label=False, interactive=False, buttons=["download", "fullscreen"],
                     key=(key, "picture"), elem_classes="picture")  # fmt: skip
        with gr.Row():
            for target in (one for one in self.targets if one.kind == take.kind):
                button = gr.Button(target.label, size="sm", min_width=80, key=(key, target.label))
                send = partial(lambda tab, value: (gr.Tabs(selected=tab), value), target.tab, key)
                button.click(send, outputs=[self.tabs, target.component], queue=False, **PRIVATE)

    def _show_gallery(self, take: Take) -> None:
        """Show many pictures; the selected one can be sent to another tab."""
        key, names = str(take.archive), [str(path) for path in take.results]
        same = len(os.path.commonprefix([path.stem for path in take.results]))
        captioned = [(str(path), path.stem[same:]) for path in take.results]
        with gr.Column():  # without it, Gradio gives the value of another component in its place to a gallery
            gallery = gr.Gallery(captioned, show_label=False, columns=3, height="auto", object_fit="contain",
                                 interactive=False, buttons=["download", "fullscreen"], key=(key, "gallery"),
                                 elem_classes="gallery")  # fmt: skip
        number = gr.State(0)
        gallery.select(_selected, outputs=number, queue=False, **PRIVATE)
        with gr.Row():
            for target in (one for one in self.targets if one.kind == take.kind):
                button = gr.Button(f"{target.label}: the selected one", size="sm", key=(key, target.label))
                send = partial(lambda tab, names, chosen: (gr.Tabs(selected=tab), names[chosen]), target.tab, names)
                button.click(send, number, [self.tabs, target.component], queue=False, **PRIVATE)


def _selected(event: gr.SelectData) -> int:
    """Number of the selected picture of a gallery."""
    return int(event.index)


def _stopped() -> str:
    """Status after Stop; the last progress of the ended generation may still be on its way to the page."""
    time.sleep(STOP_SECONDS)
    return status_html("Stopped.")


def status_html(
    text: str, share: float | None = None, notes: Sequence[str] = (), preview: Image.Image | None = None
) -> str:
    """Progress bar, a line of text, notes and a preview; all text is escaped."""
    bar = "" if share is None else f'<progress value="{share:.4f}" max="1" aria-label="progress"></progress>'
    lines = "".join(f"<li>{html.escape(clean(note))}</li>" for note in notes)
    picture = "" if preview is None else f'<img src="{data_url(preview)}" alt="preview of the unfinished result">'
    listed = f"<ul>{lines}</ul>" if lines else ""
    return f'<div role="status">{bar}<p>{html.escape(text)}</p>{listed}{picture}</div>'


def progress_html(progress: Progress, preview: Image.Image | None) -> str:
    """Status of a running generation, with its last preview."""
    step = progress.step
    if step is None:
        return status_html(f"Loading the model, {progress.seconds:.0f} s.")
    left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
    return status_html(f"{step.unit.capitalize()} {step.number} of {step.total}{left}.", step.number / step.total,
                       preview=preview)  # fmt: skip


def data_url(picture: Image.Image) -> str:
    """The PNG of a small picture as an address that holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def error_line(error: Exception) -> gr.Error:
    """Make the error that the user sees: one line; the traceback of an unexpected one goes to the log only."""
    if isinstance(error, UserError | ComputationError):
        text = clean(str(error))
    elif isinstance(error, Stopped):
        text = "the server is ending"
    else:
        text = log_unexpected(error)
    plain = text.translate({ord("<"): "‹", ord(">"): "›"})  # the page shows errors as HTML, programs as text
    return gr.Error(plain, duration=8, print_exception=False)


def log_unexpected(error: BaseException) -> str:
    """Print the traceback, and return the line for the user that names it."""
    name = secrets.token_hex(3)
    print(f"error {name}:\n{printable_trace(error)}", file=sys.stderr, flush=True)
    return f"something went wrong; the server's log has the details under {name}"


def printable_trace(error: BaseException) -> str:
    """The traceback, with everything from outside made printable."""
    return "\n".join(map(printable, "".join(traceback.format_exception(error)).splitlines()))


def clean(message: str) -> str:
    """Take the server's folders and the dashes of flags out of a message of the command line."""
    if message.startswith("no trained pipeline at"):
        return "This is the small demonstration model, which knows twelve synthetic sounds and nothing else."
    for folder in {str(Path.home()), str(paths.root()), str(paths.work_dir())} - {"/"}:
        message = message.replace(f"{folder}/", "")
    message = re.sub(r"(?<![\w/.])/(?:[^\s/:]+/)+(?=[^\s/])", "", message)
    message = re.sub(r" \((?:another: )?--[^)]*\)", "", message)  # advice about flags, which the page has not
    return re.sub(r"--(?=[a-z])", "", message)
