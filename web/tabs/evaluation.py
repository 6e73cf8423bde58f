"""Evaluation: scores of stored reports, their worst samples, and two reports side by side. Runs no model."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from sonolume.utils.errors import UserError
from sonolume.web import reports
from sonolume.web.reports import StoredReport, Table
from sonolume.web.settings import Settings

TITLE = "Evaluation"
SLOTS = 12  # files of one sample
NO_REPORTS = "There is no report yet. Make one, for example by: sonolume evaluate tta/audioldm --num_samples 60"
CHOOSE = "Choose a report above."
NO_FILES = "The samples of this report are not in its folder."
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}  # see Viewer


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:  # the page shows messages as HTML
        raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error


class Viewer:
    """Handlers of the events. Arguments are what a client sends, which may be anything: Gradio does not check them."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def _read(self, name: object) -> StoredReport | None:
        return reports.read(self.root, name) if name else None

    def refresh(self, name: object = None, other: object = None) -> tuple[Any, ...]:
        """List the reports anew; the chosen ones stay chosen while they exist."""
        names = list(reports.find_reports(self.root))
        kept = [one if isinstance(one, str) and one in names else None for one in (name, other)]
        first = gr.Dropdown(choices=names, value=kept[0])
        return first, gr.Dropdown(choices=[("none", ""), *names], value=kept[1] or "")

    @_one_line_errors()
    def show(self, name: object, other_name: object) -> tuple[Any, ...]:
        """Fill in everything but the players, and choose the first of the worst samples."""
        report, other = self._read(name), self._read(other_name)
        if report is None:
            about = CHOOSE if reports.find_reports(self.root) else NO_REPORTS
            return about, *[gr.update(visible=False)] * 5, *[gr.Dropdown(choices=[], value=None)] * 2
        rankings = reports.rankings(report)
        table, title = (reports.comparison(report, other), "A and B") if other else (report.table, "Scores")
        return (
            _summary(report, other),
            _table(table, title),
            gr.update(visible=True),
            _table(reports.conditions_table(report, other), "Conditions"),
            gr.update(visible=True),
            gr.Gallery(reports.figures(report), visible=True),
            gr.Dropdown(rankings, value=rankings[0][1]),
            _samples(reports.samples(report, rankings[0][1])),
        )

    @_one_line_errors()
    def rank(self, name: object, ranking: object) -> gr.Dropdown:
        """List the samples of another ranking."""
        report = self._read(name)
        return _samples(reports.samples(report, ranking) if report else {})

    @_one_line_errors()
    def step(self, name: object, ranking: object, uid: object) -> str | None:
        """Choose the sample after the present one, at the end the first."""
        report = self._read(name)
        uids = [*reports.samples(report, ranking)] if report else []
        following = uids.index(uid) + 1 if isinstance(uid, str) and uid in uids else 0
        return uids[following % len(uids)] if uids else None

    @_one_line_errors()
    def sample(self, name: object, other_name: object, uid: object) -> list[Any]:
        """Fill in the caption and the players of a sample."""
        report, other = self._read(name), self._read(other_name)
        shown = reports.sample(report, uid, other)[:SLOTS] if report and uid else []
        text = reports.caption(report, str(uid)) if report else ""
        found: list[Any] = [text if shown or not report else f"{text} ({NO_FILES})".strip()]
        for title, sound, picture in [*shown, *[reports.Shown("")] * (SLOTS - len(shown))]:
            found.append(gr.Audio(sound, label=title, visible=bool(title) and not picture))  # or unreadable
            found.append(gr.Image(picture, label=title, visible=bool(picture)))
        return found


def _summary(report: StoredReport, other: StoredReport | None) -> str:
    if other is None:
        return "\n".join([report.summary, *report.notes])
    different = reports.different_conditions(report, other)
    verdict = f"Measured differently ({', '.join(different)}), and therefore not ranked." if different else (
        "Measured under the same conditions. Where intervals overlap, a difference may be chance.")
    return "\n".join([f"A: {report.summary}", f"B: {other.summary}", verdict, *report.notes])


def _table(table: Table, label: str) -> gr.Dataframe:
    rows = [[cell or "\u00a0" * len(title) for title, cell in zip(table[0], row, strict=True)] for row in table[1:]]
    return gr.Dataframe({"headers": table[0], "data": rows}, label=label, visible=True)  # as wide as the titles


def _samples(listed: dict[str, str]) -> gr.Dropdown:
    return gr.Dropdown([(title, uid) for uid, title in listed.items()], value=next(iter(listed), None))


def build(settings: Settings) -> None:
    """Lay out the tab inside the open one, and connect its events."""
    viewer = Viewer(settings.evaluations)
    with gr.Row():
        name = gr.Dropdown([], label="Report (A)", scale=3, min_width=200)
        other = gr.Dropdown([], label="Compare with (B)", scale=3, min_width=200)
        refresh = gr.Button("Refresh the list", size="sm", scale=1, min_width=120)
    about = gr.Textbox(CHOOSE, label="About", lines=1, max_lines=20, interactive=False)
    table: dict[str, Any] = {"interactive": False, "wrap": True, "datatype": "str", "elem_classes": "report-table"}
    scores = gr.Dataframe(label="Scores", visible=False, **table)
    with gr.Accordion("Conditions", open=False, visible=False) as details:
        conditions = gr.Dataframe(show_label=False, **table)
    with gr.Column(visible=False) as samples:
        with gr.Row():
            ranking = gr.Dropdown([], label="Samples", scale=3, min_width=200)
            uid = gr.Dropdown([], label="Sample", scale=3, min_width=200)
            following = gr.Button("Next sample", size="sm", scale=1, min_width=120)
        caption = gr.Textbox(label="Caption", interactive=False)
        with gr.Row():
            players = [player for _ in range(SLOTS) for player in _players()]
    sheets = gr.Gallery(label="Figures", visible=False, columns=2, format="png", object_fit="contain", height="auto",
                        interactive=False, buttons=["download", "fullscreen"])  # fmt: skip

    summary, chosen = [about, scores, details, conditions, samples, sheets, ranking, uid], [name, other]
    one = ([name, other, uid], [caption, *players])
    gr.on(None, viewer.refresh, None, chosen, **PRIVATE).then(viewer.show, chosen, summary, **PRIVATE)
    refreshed = refresh.click(viewer.refresh, chosen, chosen, **PRIVATE)
    for event in (name.input, other.input, refreshed.success):
        event(viewer.show, chosen, summary, **PRIVATE).success(viewer.sample, *one, **PRIVATE)
    ranking.input(viewer.rank, [name, ranking], uid, **PRIVATE).success(viewer.sample, *one, **PRIVATE)
    following.click(viewer.step, [name, ranking, uid], uid, **PRIVATE).success(viewer.sample, *one, **PRIVATE)
    uid.input(viewer.sample, *one, **PRIVATE)


def _players() -> tuple[gr.Audio, gr.Image]:
    common: dict[str, Any] = {"visible": False, "interactive": False, "min_width": 240}
    picture: dict[str, Any] = {"buttons": ["download", "fullscreen"], "elem_classes": "report-picture"}
    return gr.Audio(buttons=["download"], **common), gr.Image(format="png", height=180, **picture, **common)
