import json
import math
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from sonolume.models.evaluation import report as reports
from sonolume.models.evaluation.report import (
    Conditions,
    Report,
    Score,
    align_tables,
    differences,
    finish,
    format_value,
    measurement_conditions,
    page,
)
from sonolume.modules.metrics.interval import Share
from sonolume.utils.cache import content_hash


def conditions(**more: object) -> Conditions:
    base = {"embedders": ["clap:x@1"], "reference": ["b", "a"], "generated": 2}
    return measurement_conditions(**(base | more))  # type: ignore[arg-type]


def test_conditions_ignore_order_only() -> None:
    same = conditions(reference=["a", "b"])
    assert content_hash(conditions()) == content_hash(same)
    changes: tuple[dict[str, object], ...] = (
        {"reference": ["a", "c"]}, {"embedders": ["clap:x@2"]}, {"embedders": [{"embedder": "clap:x@1"}]},
        {"generated": 3}, {"window": 10}, {"sample_rate": 8000}, {"seed": 1}, {"steps": 5},
    )  # fmt: skip
    for change in changes:
        other = conditions(**change)
        assert content_hash(other) != content_hash(same)
        assert next(iter(change)) in " ".join(differences(same, other))


def test_conditions_hold_the_versions() -> None:
    found = conditions()
    assert found["versions"]["torch"] == version("torch")
    assert found["resampler"] == f"soxr {version('soxr')} HQ"
    assert found["formulas"] == reports.FORMULAS


def test_a_report_is_json_and_a_page(tmp_path: Path) -> None:
    report = Report(conditions(), facts={"model": "mine"}, counts={"silent": 1}, left_out=[("c.wav", "unreadable")])
    report.add_mean("CLAP score", torch.tensor([0.1, 0.9, 0.5]), ["a", "b", "c"], chance=0.0)
    report.scores.append(Score("FAD", math.nan, "down", count=3, note="3 < 2 x 512"))
    content = json.loads(finish(report, tmp_path, ["samples.png"]).read_text())
    assert content["content_hash"] == content_hash(report.conditions)
    assert content["scores"][0]["value"] == pytest.approx(0.5)
    assert content["scores"][0]["low"] < 0.5 < content["scores"][0]["high"]
    assert content["scores"][1]["value"] is None
    assert content["outliers"][0][:2] == ["CLAP score", "a"]  # the lowest of a score that should be high
    text = (tmp_path / "report.md").read_text()
    for piece in ("model mine", "3 < 2 x 512", "1 silent", "`c.wav`: unreadable", "![](samples.png)"):
        assert piece in text
    assert "| CLAP score | `a` 0.1, `c` 0.5, `b` 0.9 |" in text


def test_outliers_of_a_distance_are_the_largest() -> None:
    report = Report(conditions())
    report.add_mean("mel L1", torch.tensor([0.1, 0.9]), ["a", "b"], better="down")
    assert report.outliers[0] == ("mel L1", "b", pytest.approx(0.9))


def test_undefined_values_are_excluded() -> None:
    report = Report(conditions())
    report.add_mean("SI-SDR", torch.tensor([math.nan, 1.0, 3.0, -math.inf]), list("abcd"), note="waves", unit="dB")
    report.add_mean("mel L1", torch.tensor([math.nan]), ["a"])
    assert (report.scores[0].value, report.scores[0].count) == (2.0, 2)
    assert report.scores[0].note == "waves; 2 of 4 undefined"
    assert [uid for _, uid, _ in report.outliers] == ["b", "c"]
    assert format_value((report.scores[1].value, None, None)) == "-" and report.scores[1].low is None


def test_shares_are_printed_in_percent_and_baselines_have_columns() -> None:
    report = Report(conditions())
    real = {"real": Share(20, 20), "VAE": Share(0, 0)}
    report.add_share("single", Share(15, 20), chance=1 / 12, baselines=real, headline=True)
    quarters, refined = torch.full((3,), 0.25), {"refined": torch.ones(3)}
    report.add_mean("mel L1", quarters, ["a", "b", "c"], "down", unit="nats", baselines=refined)
    header, _, single, distance = page(report)[:4]
    assert header == "| score | value (95 %) | chance | real | VAE | refined | better | N | note |"
    assert single == "| single | 75.0 % (53.1 to 88.8) | 8.3 % | 100.0 % (83.9 to 100.0) | - |  | up | 20 |  |"
    assert distance == "| mel L1 | 0.25 nats |  |  |  | 1 nats | down | 3 |  |"  # equal values show no spread
    assert [score.headline for score in report.scores] == [True, False]


def test_the_page_has_headlines_first_and_three_of_the_worst() -> None:
    report = Report(conditions())
    report.add_mean("KL", torch.arange(8.0), list("abcdefgh"), "down")
    report.add_share("single", Share(1, 2), headline=True)
    lines = page(report)
    assert lines[2].startswith("| single |") and lines[3].startswith("| KL |")
    assert lines[-1] == "| KL | `h` 7, `g` 6, `f` 5 |" and len(report.outliers) == 8


def test_a_difference_shows_only_what_differs() -> None:
    first = conditions(embedders=["mel:", "clap:x@1"]) | {"versions": {"torch": "1", "numpy": "2"}}
    second = conditions(embedders=["mel:"]) | {"versions": {"torch": "3", "numpy": "2"}}
    assert differences(first, second) == ["embedders clap:x@1 / none", "versions torch 1 / torch 3"]


def with_score(value: float, *more: Score) -> Report:
    report = Report({}, [*more])
    report.add_mean("agreement", torch.tensor([value - 0.1, value + 0.1]), ["a", "b"])
    return report


def test_a_column_holds_the_same_score_of_other_samples() -> None:
    ours, real = with_score(0.5, Score("FAD", 3.0)), with_score(0.9, Score("IS", 2.0))
    ours.add_baselines(real, "real")
    assert [score.baselines for score in ours.scores] == [{}, {"real": pytest.approx((0.9, 0.8, 1.0))}]


def test_chance_is_known_for_scores_of_single_samples_only() -> None:
    ours, other = with_score(0.5, Score("FAD", 3.0, low=2.0)), with_score(0.1, Score("FAD", 3.0, low=2.0))
    ours.add_mean("known", torch.ones(2), ["a", "b"], chance=0.25)
    other.add_mean("known", torch.zeros(2), ["a", "b"])
    ours.add_chance(other)
    assert {score.name: score.chance for score in ours.scores} == {
        "FAD": None, "agreement": pytest.approx(0.1), "known": 0.25,
    }  # fmt: skip


def test_nothing_from_outside_is_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A heading, a row, a picture, a terminal sequence or a bidi override in a name stays text in one line."""
    evil = "x|y`\n\n# heading\n| 1 | 2 |\n<script>\x1b[2J\u202e\udcff![a](b)"
    report = Report({}, facts={"model": evil}, counts={evil: 1}, left_out=[(evil, evil)])
    report.scores.append(Score(evil, 1.0, note=evil, baselines={evil: (1.0, None, None)}))
    report.outliers.append((evil, evil, 1.0))
    finish(report, tmp_path)
    plain = Report({}, facts={"model": "x"}, counts={"x": 1}, left_out=[("x", "x")])
    plain.scores.append(Score("x", 1.0, note="x", baselines={"x": (1.0, None, None)}))
    plain.outliers.append(("x", "x", 1.0))
    written, printed = (tmp_path / "report.md").read_text(encoding="utf-8"), capsys.readouterr().out
    assert [line[:2] for line in written.splitlines()] == [line[:2] for line in page(plain)]
    assert written.count("<script>") == written.count("\\<script>") + 2  # two code spans
    assert len(printed.splitlines()) == len(align_tables(page(plain))) + 1  # the last one is the path
    assert not any(one in text for text in (written, printed) for one in ("\x1b", "\u202e", "\udcff"))


def test_the_terminal_gets_aligned_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(conditions(), facts={"model": "mine"})
    report.add_share("single", Share(15, 20), chance=1 / 12, headline=True)
    report.add_mean("KL of both", torch.arange(8.0), ["a|b", *"bcdefgh"], "down")
    finish(report, tmp_path, ["samples.png"])
    lines = capsys.readouterr().out.splitlines()
    table = lines[2:6]
    assert table[0].startswith("score       value") and table[0].endswith("N")
    assert len({table[row].index(value) for row, value in ((0, "better"), (2, "up"), (3, "down"))}) == 1
    assert not any(line.startswith(("|", "![")) for line in lines) and any("`h` 7" in line for line in lines)
    escaped = ["a \\* b", "| a\\|b | c |", "|---|---|", "| 1 | 2 |"]
    assert align_tables(escaped) == ["a * b", "a|b  c", "---  -", "1    2"]


def test_distances_without_a_scale_are_explained() -> None:
    report = Report(conditions(), scores=[Score("FAD mini:sound_judge", 3.2, "down"), Score("KID mel", 0.1, "down")])
    explained = [line.partition(":")[0] for line in page(report)[5:] if "no upper bound" in line]
    assert explained == ["FAD", "KID"]
    assert not any("no upper bound" in line for line in page(Report(conditions())))
