from types import SimpleNamespace
from typing import Any

import pytest

from sonolume.models import callbacks
from sonolume.models.callbacks import DataWait, Position


def test_the_share_of_time_that_training_waits_for_data(monkeypatch: pytest.MonkeyPatch):
    """A fetch takes 1 s, the third one 3 s, and a step 3 s; what happens between two batches does not count."""
    clock, logged = SimpleNamespace(now=0.0), list[Any]()

    def seconds(number: float) -> None:
        clock.now += number

    def batches() -> Any:
        for number in range(8):
            seconds(3 if number == 2 else 1)
            yield number

    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock.now)
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append((values, step)))
    trainer: Any = SimpleNamespace(accumulate_grad_batches=2, log_every_n_steps=2, loggers=[logger])
    position = Position()
    wait = DataWait(position)
    for _ in wait.timed(batches()):
        seconds(3)
        position.batches += 1
        wait.on_train_batch_end(trainer)
        seconds(100)  # a validation
    assert logged == [({"train/data_wait": 6 / 18}, 1), ({"train/data_wait": 4 / 16}, 3)]
