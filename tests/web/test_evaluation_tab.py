import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

gr = pytest.importorskip("gradio", reason="the extra web is not installed")

from sonolume.utils import paths  # noqa: E402
from sonolume.web.settings import Settings  # noqa: E402
from sonolume.web.tabs import evaluation  # noqa: E402
from sonolume.web.tabs.evaluation import SLOTS, Viewer  # noqa: E402

MakeReport = Callable[..., Path]


@pytest.fixture
def make_report(tmp_path: Path) -> MakeReport:
    """make_report("name", [0.1, 0.5, 0.9], seed=1): a report of three sounds below tmp_path / "evaluation"."""
    make = runpy.run_path(str(Path(__file__).with_name("made_report.py")))["make_report"]
    return lambda name, *arguments, **more: make(tmp_path / "evaluation" / name, *arguments, **more)


@pytest.fixture
def viewer(tmp_path: Path, make_report: MakeReport) -> Viewer:
    make_report("a", [0.5, 0.25, 0.75])
    make_report("b", [0.75, 0.5, 1.0], level=0.75)
    return Viewer(tmp_path / "evaluation")


def visible(players: list[Any]) -> list[Any]:
    return [player for player in players if player.visible]


def test_the_list_of_reports_is_refreshed(viewer: Viewer, make_report: MakeReport) -> None:
    first, second = viewer.refresh()
    assert [name for name, _ in first.choices] == ["a", "b"] and first.value is None and second.value == ""
    make_report("c", [0.5, 0.25, 0.75])
    first, second = viewer.refresh("a", "gone")
    assert len(first.choices) == 3 and first.value == "a" and second.value == ""


def test_no_report_yet(tmp_path: Path) -> None:
    about, *others = Viewer(tmp_path).show(None, None)
    assert about == evaluation.NO_REPORTS and len(others) == 7


def test_a_report_is_shown(viewer: Viewer) -> None:
    about, scores, _, conditions, _, sheets, ranking, uid = viewer.show("a", "")
    assert about.startswith("model bell") and scores.value["headers"][0] == "score"
    assert scores.value["data"][0][0] == "single" and ["seed", "0"] in conditions.value["data"]
    assert sheets.visible and ranking.value == "CLAP score"
    assert uid.choices[0] == ("0.25: b", "b") and uid.value == "b"


def test_two_reports_are_compared(viewer: Viewer, make_report: MakeReport) -> None:
    about, scores, *_ = viewer.show("a", "b")
    assert "same conditions" in about and scores.value["headers"][-1] == "better"
    assert [row[-1] for row in scores.value["data"]] == ["B", "equal", "equal"]
    make_report("c", [0.5, 0.25, 0.75], seed=1)
    about, scores, *_ = viewer.show("a", "c")
    assert "Measured differently (seed)" in about and {row[-1].strip() for row in scores.value["data"]} == {""}


def test_players_of_a_sample(viewer: Viewer) -> None:
    caption, *players = viewer.sample("a", "", "a")
    assert caption == "<b>A bell</b> rings" and len(players) == 2 * SLOTS
    assert [(type(one), one.label) for one in visible(players)] == [
        (gr.Audio, "generated"), (gr.Audio, "reference"), (gr.Image, "pictures"),
    ]  # fmt: skip
    labels = [one.label for one in visible(viewer.sample("a", "b", "c")[1:])]
    assert labels == ["A: generated", "B: generated", "A and B: reference"]
    assert not visible(viewer.sample(None, None, None)[1:])


def test_a_report_without_samples(viewer: Viewer) -> None:
    for path in viewer.root.rglob("*.wav"):
        path.unlink()
    assert viewer.sample("a", "", "b")[0] == f"[x](javascript:alert(1)) barks ({evaluation.NO_FILES})"


def test_walking_through_the_samples(viewer: Viewer) -> None:
    assert viewer.step("a", "CLAP score", "b") == "a"
    assert viewer.step("a", "CLAP score", "c") == "b"  # after the last
    assert viewer.step("a", "", "nothing") == "a" and viewer.step(None, "", "a") is None
    assert [uid for _, uid in viewer.rank("a", "").choices] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", ["a"], {"path": "/etc/passwd"}, 1])
def test_whatever_a_client_sends_is_one_line(viewer: Viewer, name: object) -> None:
    calls = [(viewer.show, name, ""), (viewer.show, "a", name), (viewer.sample, name, "", "a"),
             (viewer.sample, "a", name, "a"), (viewer.sample, "a", "", name), (viewer.rank, "a", name),
             (viewer.rank, name, ""), (viewer.step, "a", name, "a"), (viewer.step, name, "", "a")]  # fmt: skip
    for handler, *arguments in calls:
        with pytest.raises(gr.Error) as error:
            handler(*arguments)
        assert "\n" not in error.value.message and not error.value.print_exception


def test_messages_are_escaped(viewer: Viewer, make_report: MakeReport) -> None:
    (make_report("<img src=x>", [0.1, 0.2, 0.3]) / "report.json").write_text("{")
    with pytest.raises(gr.Error, match="^'&lt;img src=x&gt;/report.json: not valid JSON"):
        viewer.show("<img src=x>", "")


def test_all_events_are_private(tmp_path: Path) -> None:
    with gr.Blocks() as demo, gr.Tab(evaluation.TITLE):
        evaluation.build(Settings(evaluations=tmp_path))
    assert {event.api_visibility for event in demo.fns.values()} == {"private"}
    assert demo.get_api_info()["named_endpoints"] == {}


@pytest.fixture
def page(viewer: Viewer, browser_page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page with the tab; fails if it reports an error or a request leaves this machine."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with gr.Blocks(analytics_enabled=False) as demo, gr.Tabs():
        gr.Tab("First")
        with gr.Tab(evaluation.TITLE):
            evaluation.build(Settings(evaluations=viewer.root))
    demo.queue(api_open=False)
    css = (paths.root() / "web" / "page.css").read_text()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, css=css, footer_links=[])
    faults: list[str] = []
    page = browser_page
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if is_remote(request.url) else None)
    page.goto(url)
    page.get_by_role("tab", name=evaluation.TITLE).click()
    yield page
    page.goto("about:blank")
    demo.close()
    assert not faults


def is_remote(url: str) -> bool:
    return not re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", url)


def choose(page: Any, label: str, option: str) -> None:
    """Choose an option of a dropdown by the keyboard."""
    page.get_by_label(label, exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(option)
    page.get_by_role("option", name=option, exact=True).wait_for()
    page.keyboard.press("Enter")


@pytest.mark.browser
@pytest.mark.filterwarnings("default")
def test_in_chromium(page: Any, viewer: Viewer, make_report: MakeReport, tmp_path: Path) -> None:
    expect = sys.modules["playwright.sync_api"].expect
    choose(page, "Report (A)", "a")
    expect(page.get_by_label("About")).to_have_value(re.compile("model bell"))
    expect(page.get_by_role("gridcell", name="0.5 (").first).to_be_visible()
    expect(page.get_by_label("Caption")).to_have_value("[x](javascript:alert(1)) barks")
    page.get_by_label("Play", exact=True).first.click()
    expect(page.get_by_label("Pause", exact=True).first).to_be_visible()

    choose(page, "Compare with (B)", "b")
    expect(page.get_by_label("About")).to_have_value(re.compile("same conditions"))
    for title in ("A: generated", "B: generated", "A and B: reference"):
        expect(page.get_by_text(title, exact=True)).to_be_visible()
    page.get_by_role("button", name="Next sample").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Caption")).to_have_value("<b>A bell</b> rings")
    expect(page.get_by_text("A and B: pictures", exact=True)).to_be_visible()
    page.screenshot(path=tmp_path / "evaluation_1280.png", full_page=True)

    attack = "<img src=http://10.0.0.1/x onerror=alert(1)>"
    folder = make_report(attack.replace("/", "∕"), [0.5, 0.25, 0.75])
    text = (folder / "report.json").read_text().replace("CLAP score", attack).replace('"real"', f'"{attack}"')
    (folder / "report.json").write_text(text)
    (folder / "generated").rename(folder / attack.replace("/", "∕"))
    page.get_by_role("button", name="Refresh the list").click()
    choose(page, "Report (A)", folder.name)
    expect(page.get_by_role("gridcell", name=attack).first).to_be_visible()
    expect(page.get_by_label("About")).to_have_value(re.compile("A: model bell"))

    call = page.request.post(f"{page.url}gradio_api/call/show", data={"data": ["../evaluation/a", ""]}).json()
    answer = page.request.get(f"{page.url}gradio_api/call/show/{call['event_id']}").text()
    assert "no report of this name" in answer
    for path in ("report.json", "generated/a.wav"):
        assert page.request.get(f"{page.url}gradio_api/file={viewer.root}/a/{path}").status == 403

    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.screenshot(path=tmp_path / "evaluation_390.png", full_page=True)
