from pathlib import Path

import pytest
import torch

from sonolume.models.evaluation import beside
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.report import Score


def report(value: float, *more: Score) -> Report:
    made = Report({}, [*more])
    made.add_mean("agreement", torch.tensor([value - 0.1, value + 0.1]), ["a", "b"])
    return made


def test_a_column_holds_the_same_score_of_something_else() -> None:
    ours, real = report(0.5, Score("FAD", 3.0)), report(0.9, Score("IS", 2.0))
    beside.put_beside(ours, real, "real")
    assert [score.beside for score in ours.scores] == [{}, {"real": pytest.approx((0.9, 0.8, 1.0))}]


def test_chance_is_what_samples_of_other_captions_get_and_means_nothing_for_whole_sets() -> None:
    ours, other = report(0.5, Score("FAD", 3.0, low=2.0)), report(0.1, Score("FAD", 3.0, low=2.0))
    ours.add_mean("told", torch.ones(2), ["a", "b"], chance=0.25)
    other.add_mean("told", torch.zeros(2), ["a", "b"])
    beside.put_chance(ours, other)
    assert {score.name: score.chance for score in ours.scores} == {
        "FAD": None, "agreement": pytest.approx(0.1), "told": 0.25,
    }  # fmt: skip


def test_nobody_keeps_his_own_sample() -> None:
    files = {uid: Path(f"{uid}.wav") for uid in "abc"}
    assert beside.shifted(files, ["a", "b", "lost", "c"]) == {
        "a": Path("b.wav"), "b": Path("c.wav"), "c": Path("a.wav"),
    }  # fmt: skip
