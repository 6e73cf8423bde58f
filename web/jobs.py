"""A generation in a thread of its own, step by step: progress, previews, and an end within one step."""

import contextvars
import math
import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image

from sonolume.models.progress import OnStep, Step
from sonolume.utils.errors import UserError

HEARTBEAT = 0.25  # seconds between two reports while no step ends, such as while a model is loaded
PREVIEW_INTERVAL = 0.5  # seconds between two previews, and
PREVIEW_SHARE = 0.1  # at most this share of the time is spent on them

Result = TypeVar("Result")


class Stopped(Exception):
    """The user has stopped the generation."""


@dataclass(frozen=True)
class Progress:
    """State of a running generation.

    Args:
        step: the last one that ended; None before the first.
        seconds: since the start.
        seconds_left: estimate for the steps of this unit; None before the first.
        preview: a new one; None where there is none.
    """

    step: Step | None = None
    seconds: float = 0.0
    seconds_left: float | None = None
    preview: Image.Image | None = None


@dataclass
class _Clock:
    """Times of one generation."""

    start: float = field(default_factory=time.monotonic)
    unit: str = ""
    unit_start: float = 0.0
    first_number: int = 0  # steps of this unit that had ended when the clock saw it first
    last_preview: float = 0.0
    preview_cost: float = 0.0

    def left(self, step: Step) -> float | None:
        """Estimate the seconds until the last step of this unit."""
        now = time.monotonic()
        if step.unit != self.unit:
            self.unit, self.unit_start, self.first_number = step.unit, now, step.number
        done = step.number - self.first_number
        return None if done < 1 else (now - self.unit_start) / done * (step.total - step.number)

    def preview(self, step: Step) -> Image.Image | None:
        """Make a preview if the last one is long enough ago."""
        now = time.monotonic()
        wait = max(PREVIEW_INTERVAL, self.preview_cost / PREVIEW_SHARE)
        if step.preview is None or now - self.last_preview < wait:
            return None
        picture = step.preview()
        self.last_preview = time.monotonic()
        self.preview_cost = self.last_preview - now
        return picture


@dataclass(frozen=True)
class Conditions:
    """Conditions of a generation.

    Args:
        lock: held while it works: the one before, which was stopped, may still be in its last step.
        stopping: ends it when set.
        longest: seconds after which it ends with an error.
        discard: called in its thread if nobody gets its result.
    """

    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)
    stopping: threading.Event = field(default_factory=threading.Event)
    longest: float = math.inf
    discard: Callable[[], None] = lambda: None


def run_in_steps(
    work: Callable[[OnStep], Result], conditions: Conditions | None = None
) -> Generator[Progress, None, Result]:
    """Run `work(on_step)` in a thread; yield its progress, at least every `HEARTBEAT` seconds, and return its result.

    When this generator is closed, the work ends with its next step. Closing does not wait for that: Gradio closes
    generators on the thread that answers everybody.

    Raises:
        UserError: the work took longer than the longest allowed time.
    """
    limits, stop = conditions or Conditions(), threading.Event()
    reports: queue.Queue[Progress | None] = queue.Queue()  # None: the work has ended
    clock, outcome, is_delivered = _Clock(), list[Result | BaseException](), False

    def check() -> None:
        if stop.is_set() or limits.stopping.is_set():
            raise Stopped

    def on_step(step: Step) -> None:
        check()
        seconds = time.monotonic() - clock.start
        if seconds > limits.longest:
            raise UserError(f"the generation was ended after {limits.longest / 60:g} minutes: ask for less")
        seconds_left = clock.left(step)
        reports.put(Progress(step, seconds, seconds_left, clock.preview(step)))

    def held_work() -> Result:
        try:
            check()
            clock.start = time.monotonic()
            result = work(on_step)
            check()
            return result
        except BaseException:
            limits.discard()
            raise

    def target() -> None:
        try:
            with limits.lock:
                outcome.append(held_work())
        except BaseException as error:  # raised again by the generator
            outcome.append(error)
        finally:
            reports.put(None)

    threading.Thread(target=contextvars.copy_context().run, args=(target,), name="generation").start()
    last = Progress()
    try:
        while True:
            try:
                report = reports.get(timeout=HEARTBEAT)
            except queue.Empty:
                report = Progress(last.step, time.monotonic() - clock.start, last.seconds_left)
            if report is None:
                is_delivered = True
                break
            last = report
            yield last
    finally:
        stop.set()
        if outcome and not is_delivered:  # it had just ended
            limits.discard()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result
