"""When preparation uses several processes; tests of text_audio compare the files that they write."""

import math
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from sonolume.preprocessors import parallel
from sonolume.preprocessors.parallel import processes_worth


class TestProcessesWorth:
    """A start of 2 s."""

    @pytest.mark.parametrize(("seconds", "left", "most", "count"), [
        ([], 10**6, 8, 1),  # nothing is known yet
        ([0.1] * 3, 10**6, 8, 1),  # too little is
        ([0.1] * 4, 39, 8, 1),  # 3.9 s alone; 2 + 1.95 s with two
        ([0.1] * 4, 40, 8, 2),  # 4 s alone; 2 + 2 s with two
        ([0.1] * 16, 79, 8, 3),
        ([0.1] * 16, 10**6, 8, 8),
        ([0.1] * 16, 10**6, 2, 2),
        ([0.1] * 16, 10**6, 1, 1),
        ([0.0, 0.0, 0.0, 0.4], 40, 8, 2),  # the mean counts
        ([0.0] * 16, 10**6, 8, 1),  # all prepared by an earlier run
        ([3.0], 10, 8, 8),  # one item was enough
        ([30.0], 2, 8, 2),  # no more processes than items
        ([30.0], 1, 8, 1),
    ])  # fmt: skip
    def test_closed_cases(self, seconds: list[float], left: int, most: int, count: int):
        assert processes_worth(seconds, left, most, 2.0) == count

    @pytest.mark.parametrize("work", [0.5, 3.0, 4.0, 7.0, 50.0, 4000.0])
    @pytest.mark.parametrize("most", [2, 3, 16])
    def test_they_are_never_slower_than_one(self, work: float, most: int):
        count = processes_worth([work / 100] * 16, 100, most, 2.0)
        assert count == 1 or 2.0 + work / count <= work + 1e-9


class Clock:
    """Time that passes while items are worked on only: an item is its seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, item: float) -> float:
        self.now += item
        return math.sqrt(item)


@pytest.mark.parametrize(("items", "start", "alone"), [
    ([0.1] * 50, 0, 50),  # 5 s of work
    ([9.0] + [0.1] * 50, 0, 51),  # the first item loads libraries, which says nothing of the others
    ([0.1] * 200, 0, 5),  # the first one, and four that are measured
    ([0.1] * 200, 2.95, 35),  # the main process works until the others are ready
    ([0.1] * 200, 100, 200),  # a machine on which they are too slow to help
    ([0.0] * 300 + [1.0] * 60, 0, 302),  # an earlier run prepared 300: nothing was known of the others
    ([0.1] * 30 + [0.0] * 500, 0, 5),  # the first ones promise more than there is
    ([], 0, 0),
    ([5.0], 0, 1),
])  # fmt: skip
def test_the_rest_is_handed_over_when_it_pays(
    items: list[float], start: float, alone: int, monkeypatch: pytest.MonkeyPatch
):
    clock = Clock()
    handed_over: list[tuple[int, int]] = []
    events: list[str] = []

    class Workers:
        def __init__(self, work: Any, count: int) -> None:
            self.work, self.count, self.ready_at = work, count, clock.now + start
            events.append("started")

        def are_ready(self) -> bool:
            return clock.now >= self.ready_at

        def map(self, rest: Sequence[float]) -> Iterator[float]:
            handed_over.append((len(rest), self.count))
            return map(self.work, rest)

        def close(self) -> None:
            events.append("closed")

    monkeypatch.setattr(parallel, "Workers", Workers)
    monkeypatch.setattr(parallel, "_cores", lambda: 2)
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(parallel, "tqdm", lambda results, **_: results)
    assert parallel.run(clock.work, items, 4, "items") == [math.sqrt(item) for item in items]
    assert handed_over == ([(len(items) - alone, 2)] if alone < len(items) else [])
    assert events in ([], ["started", "closed"]) and bool(events) == (alone < len(items) or start == 100)


def test_processes_that_are_not_ready_in_time_are_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_cores", lambda: 2)
    monkeypatch.setattr(parallel, "processes_worth", lambda seconds, left, *_: 2 if left == 1 else 1)
    assert parallel.run(abs, [-1, 2], 2, "items") == [1, 2]
    assert not multiprocessing.active_children()  # starts, for seconds, of processes that nobody needs


@pytest.mark.parametrize("num_workers", [0, 1])
def test_without_workers_the_main_process_does_everything(num_workers: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "processes_worth", lambda *_: pytest.fail("asked"))
    assert parallel.run(abs, [-1, 2], num_workers, "items") == [1, 2]
