import json
from pathlib import Path

import pytest

from sonolume.models.evaluation.compare import comparison_table, read_report
from sonolume.models.evaluation.report import Conditions, Report, Score, finish, measurement_conditions
from sonolume.modules.metrics.interval import Share
from sonolume.utils.errors import UserError


def conditions(**more: object) -> Conditions:
    base = {"embedders": ["clap:x@1"], "reference": ["b", "a"], "generated": 2}
    return measurement_conditions(**(base | more))  # type: ignore[arg-type]


def make(folder: Path, value: float, better: str = "up", **more: object) -> Path:
    folder.mkdir()
    return finish(Report(conditions(**more), [Score("CLAP score", value, better)]), folder)


def test_baselines_are_not_compared(tmp_path: Path) -> None:
    paths = []
    for name, right in (("a", 5), ("b", 8)):
        (tmp_path / name).mkdir()
        report = Report(conditions())
        report.add_share("single", Share(right, 10), baselines={"real": Share(10, 10)})
        paths.append(finish(report, tmp_path / name))
    assert json.loads(paths[0].read_text())["scores"][0]["baselines"]["real"][0] == 1.0
    row = comparison_table(paths)[-1]
    assert row.startswith("| single | 50.0 % (23.7 to 76.3) | **80.0 % (") and "100" not in row


def test_the_best_of_each_row_is_bold(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0.3), make(tmp_path / "b", 0.4)
    assert "| 0.3 | **0.4** |" in comparison_table([a, b])[-1]
    c, d = make(tmp_path / "c", 3, "down"), make(tmp_path / "d", 4, "down")
    assert "| **3** | 4 |" in comparison_table([c.parent, d.parent])[-1]


def test_results_of_other_conditions_are_not_ranked(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0.3), make(tmp_path / "b", 0.4, generated=5)
    with pytest.raises(UserError, match="measured differently.*generated 2 / 5"):
        comparison_table([a, b])
    assert "| 0.3 | 0.4 |" in comparison_table([a, b], ranked=False)[-1]


def test_a_row_that_one_report_lacks(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0.3), make(tmp_path / "b", 0.4)
    content = json.loads(b.read_text())
    content["scores"] = [content["scores"][0] | {"name": "FAD"}]
    b.write_text(json.dumps(content))
    assert comparison_table([a, b])[-2:] == ["| CLAP score | 0.3 | - |", "| FAD | - | 0.4 |"]  # alone is not best


def test_a_score_over_fewer_samples_is_not_ranked(tmp_path: Path) -> None:
    paths = []
    for name, share in (("a", Share(4, 8)), ("b", Share(3, 3))):
        (tmp_path / name).mkdir()
        report = Report(conditions())
        report.add_share("then: order", share)
        paths.append(finish(report, tmp_path / name))
    row = comparison_table(paths)[-1]
    assert "**" not in row and ", N 8 |" in row and ", N 3 |" in row


def test_reports_of_older_versions_can_be_read(tmp_path: Path) -> None:
    path = make(tmp_path / "a", 0.3)
    content = json.loads(path.read_text())
    content["fingerprint"] = content.pop("content_hash")
    content["scores"][0]["beside"] = content["scores"][0].pop("baselines") | {"real": [1.0, None, None]}
    path.write_text(json.dumps(content))
    report = read_report(path)
    assert report["scores"][0]["baselines"] == {"real": [1.0, None, None]} and "content_hash" in report
    assert "| 0.3 | **0.4** |" in comparison_table([path, make(tmp_path / "b", 0.4)])[-1]


ODD = (
    '{"conditions": {}, "scores": [{"name": "x"}]}', '{"conditions": [], "scores": []}',
    '{"conditions": {}, "scores": {}}', '{"conditions": {}, "scores": [1]}',
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "not an object"), (None, "no such file"), *((odd, "not a report") for odd in ODD)],
)
def test_unreadable_reports(tmp_path: Path, text: str | None, message: str) -> None:
    good = make(tmp_path / "a", 0.3)
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    with pytest.raises(UserError, match=message):
        comparison_table([good, bad])
    with pytest.raises(UserError, match="at least two"):
        comparison_table([good])
