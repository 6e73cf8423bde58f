"""A generation in a thread: its steps, its result, its errors, and an end within one step."""

import threading
import time

import pytest
from PIL import Image

from sonolume.models.progress import OnStep, Step
from sonolume.utils.errors import UserError
from sonolume.utils.text import collect_messages, message
from sonolume.web import jobs
from sonolume.web.jobs import Conditions, Progress, run_in_steps


def drain(steps) -> tuple[list[Progress], object]:
    reports = []
    while True:
        try:
            reports.append(next(steps))
        except StopIteration as end:
            return reports, end.value


def wait_for_threads() -> None:
    """Wait until all work has ended."""
    for thread in threading.enumerate():
        if thread.name == "generation":
            thread.join(10)
            assert not thread.is_alive()


def test_every_step_is_reported_before_the_result() -> None:
    def work(on_step: OnStep) -> str:
        for number in range(1, 6):
            on_step(Step(number, 5, "denoising step"))
        return "done"

    reports, result = drain(run_in_steps(work))
    numbers = [report.step.number for report in reports if report.step]
    assert sorted(set(numbers)) == [1, 2, 3, 4, 5] and result == "done"
    assert reports[0].seconds_left is None and reports[-1].seconds_left == 0


def test_time_left_counts_the_steps_of_its_own_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 12.0, 14.0, 50.0, 51.0])
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(now))
    clock = jobs._Clock(start=0.0)
    assert clock.left(Step(1, 11, "denoising step")) is None  # at 0 s: from here on
    assert clock.left(Step(2, 11, "denoising step")) == 90.0  # 10 s a step, nine are left
    assert clock.left(Step(3, 11, "denoising step")) == 48.0  # 6 s a step
    assert clock.left(Step(1, 3, "vocoder window")) is None
    assert clock.left(Step(2, 3, "vocoder window")) == 36.0


def test_closing_ends_the_work_with_its_next_step() -> None:
    seen: list[int] = []

    def work(on_step: OnStep) -> None:
        for number in range(1, 1000):
            seen.append(number)
            time.sleep(0.01)
            on_step(Step(number, 1000, "denoising step"))

    steps = run_in_steps(work)
    while next(steps).step is None:
        pass
    before = len(seen)
    steps.close()
    wait_for_threads()
    assert len(seen) - before <= 2


def test_closing_waits_for_nothing_but_the_next_work_does() -> None:
    """Gradio closes generators on the thread that answers everybody."""
    release, running, discarded = threading.Event(), threading.Event(), []

    def slow(on_step: OnStep) -> None:
        on_step(Step(1, 2, "denoising step"))
        running.set()
        release.wait(10)
        on_step(Step(2, 2, "denoising step"))

    lock = threading.Lock()
    steps = run_in_steps(slow, Conditions(lock, discard=lambda: discarded.append(1)))
    next(steps)
    running.wait(10)
    steps.close()  # would never return if it waited
    following = run_in_steps(lambda on_step: "done", Conditions(lock))
    assert next(following).step is None and not discarded
    release.set()
    assert drain(following)[1] == "done" and discarded == [1]
    wait_for_threads()


def test_a_result_that_nobody_gets_is_discarded() -> None:
    discarded: list[int] = []
    steps = run_in_steps(lambda on_step: on_step(Step(1, 1, "token")), Conditions(discard=lambda: discarded.append(1)))
    next(steps)
    wait_for_threads()
    steps.close()
    assert discarded == [1]


def test_long_work_is_ended() -> None:
    def work(on_step: OnStep) -> None:
        for number in range(1, 1000):
            time.sleep(0.005)
            on_step(Step(number, 1000, "denoising step"))

    with pytest.raises(UserError, match="ended after"):
        drain(run_in_steps(work, Conditions(longest=0.03)))


def test_an_error_reaches_the_caller_unchanged() -> None:
    def work(on_step: OnStep) -> None:
        raise UserError("no such sound")

    with pytest.raises(UserError, match="no such sound"):
        drain(run_in_steps(work))


def test_reports_come_without_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT", 0.01)
    reports, result = drain(run_in_steps(lambda on_step: time.sleep(0.05)))
    assert len(reports) >= 2 and {report.step for report in reports} == {None} and result is None


def test_previews_take_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def preview() -> Image.Image:
        made.append(1)
        time.sleep(0.02)
        return Image.new("RGB", (2, 2))

    monkeypatch.setattr(jobs, "PREVIEW_INTERVAL", 0.0)

    def work(on_step: OnStep) -> None:
        for number in range(1, 31):
            time.sleep(0.005)
            on_step(Step(number, 30, "denoising step", preview))

    reports, _ = drain(run_in_steps(work))
    assert 1 <= len(made) <= 3  # 0.15 s of steps: one at the start, and at most one each 0.2 s
    assert sum(report.preview is not None for report in reports) == len(made)


def test_messages_of_the_work_are_collected() -> None:
    def work(on_step: OnStep) -> list[str]:
        with collect_messages() as messages:
            message("silent\nline")
        message("another")
        return messages

    assert drain(run_in_steps(work))[1] == ["silent\\nline"]
