import json
import math
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from sonolume.models.evaluation import compare, protocol, results
from sonolume.models.evaluation.protocol import Fingerprint, differences, digest, fingerprint
from sonolume.models.evaluation.report import Report
from sonolume.models.evaluation.report import Score
from sonolume.modules.metrics.interval import Share
from sonolume.utils.errors import UserError


def conditions(**more: object) -> Fingerprint:
    base = {"embedders": ["clap:x@1"], "reference": ["b", "a"], "generated": 2}
    return fingerprint(**(base | more))  # type: ignore[arg-type]


def make(folder: Path, value: float, better: str = "up", **more: object) -> Path:
    folder.mkdir()
    return results.write(Report(conditions(**more), [Score("CLAP score", value, better)]), folder)


def test_the_fingerprint_ignores_order_and_sees_everything_else() -> None:
    same = conditions(reference=["a", "b"])
    assert digest(conditions()) == digest(same)
    changes: tuple[dict[str, object], ...] = (
        {"reference": ["a", "c"]}, {"embedders": ["clap:x@2"]}, {"embedders": [{"embedder": "clap:x@1"}]},
        {"generated": 3}, {"window": 10}, {"sample_rate": 8000}, {"seed": 1}, {"steps": 5},
    )  # fmt: skip
    for change in changes:
        other = conditions(**change)
        assert digest(other) != digest(same)
        assert next(iter(change)) in " ".join(differences(same, other))


def test_the_fingerprint_holds_the_versions_of_what_decides() -> None:
    found = conditions()
    assert found["versions"]["torch"] == version("torch")
    assert found["resampler"] == f"soxr {version('soxr')} HQ"
    assert found["formulas"] == protocol.FORMULAS


def test_a_result_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    report = Report(conditions(), facts={"model": "mine"}, counts={"silent": 1}, left_out=[("c.wav", "unreadable")])
    report.add_mean("CLAP score", torch.tensor([0.1, 0.9, 0.5]), ["a", "b", "c"], chance=0.0)
    report.scores.append(Score("FAD", math.nan, "down", count=3, note="3 < 2 x 512"))
    content = json.loads(results.write(report, tmp_path, ["samples.png"]).read_text())
    assert content["fingerprint"] == digest(report.conditions)
    assert content["scores"][0]["value"] == pytest.approx(0.5)
    assert content["scores"][0]["low"] < 0.5 < content["scores"][0]["high"]
    assert content["scores"][1]["value"] is None
    assert content["outliers"][0][:2] == ["CLAP score", "a"]  # the worst of what should be high
    page = (tmp_path / "report.md").read_text()
    for piece in ("model mine", "3 < 2 x 512", "1 silent", "`c.wav`: unreadable", "![](samples.png)"):
        assert piece in page
    assert "| CLAP score | `a` 0.1, `c` 0.5, `b` 0.9 |" in page


def test_outliers_of_a_distance_are_the_largest() -> None:
    report = Report(conditions())
    report.add_mean("mel L1", torch.tensor([0.1, 0.9]), ["a", "b"], better="down")
    assert report.outliers[0] == ("mel L1", "b", pytest.approx(0.9))


def test_what_is_undefined_is_no_zero_and_is_said() -> None:
    report = Report(conditions())
    report.add_mean("SI-SDR", torch.tensor([math.nan, 1.0, 3.0, -math.inf]), list("abcd"), note="waves", unit="dB")
    report.add_mean("mel L1", torch.tensor([math.nan]), ["a"])
    assert (report.scores[0].value, report.scores[0].count) == (2.0, 2)
    assert report.scores[0].note == "waves; 2 of 4 undefined"
    assert [uid for _, uid, _ in report.outliers] == ["b", "c"]
    assert str(report.scores[1]) == "-" and report.scores[1].low is None


def test_shares_are_printed_in_percent_and_what_stands_beside_gets_columns() -> None:
    report = Report(conditions())
    real = {"real": Share(20, 20), "VAE": Share(0, 0)}
    report.add_share("single", Share(15, 20), chance=1 / 12, beside=real, headline=True)
    quarters, polished = torch.full((3,), 0.25), {"polished": torch.ones(3)}
    report.add_mean("mel L1", quarters, ["a", "b", "c"], "down", unit="nats", beside=polished)
    header, _, single, distance = results.page(report)[:4]
    assert header == "| score | value (95 %) | chance | real | VAE | polished | better | N | remark |"
    assert single == "| single | 75.0 % (53.1 to 88.8) | 8.3 % | 100.0 % (83.9 to 100.0) | - |  | up | 20 |  |"
    assert distance == "| mel L1 | 0.25 nats |  |  |  | 1 nats | down | 3 |  |"  # equal values show no spread
    assert [score.headline for score in report.scores] == [True, False]


def test_what_stands_beside_is_kept_in_the_json_and_not_compared(tmp_path: Path) -> None:
    paths = []
    for name, right in (("a", 5), ("b", 8)):
        (tmp_path / name).mkdir()
        report = Report(conditions())
        report.add_share("single", Share(right, 10), beside={"real": Share(10, 10)})
        paths.append(results.write(report, tmp_path / name))
    assert json.loads(paths[0].read_text())["scores"][0]["beside"]["real"][0] == 1.0
    row = compare.table(paths)[-1]
    assert row.startswith("| single | 50.0 % (23.7 to 76.3) | **80.0 % (") and "100" not in row


def test_the_best_of_each_row_is_bold(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0.3), make(tmp_path / "b", 0.4)
    assert "| 0.3 | **0.4** |" in compare.table([a, b])[-1]
    c, d = make(tmp_path / "c", 3, "down"), make(tmp_path / "d", 4, "down")
    assert "| **3** | 4 |" in compare.table([c.parent, d.parent])[-1]


def test_results_of_other_conditions_are_not_ranked(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0.3), make(tmp_path / "b", 0.4, generated=5)
    with pytest.raises(UserError, match="measured differently.*generated 2 / 5"):
        compare.table([a, b])
    assert "| 0.3 | 0.4 |" in compare.table([a, b], ranked=False)[-1]


def test_a_row_that_one_report_lacks(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", 0.3), make(tmp_path / "b", 0.4)
    content = json.loads(b.read_text())
    content["scores"] = [content["scores"][0] | {"name": "FAD"}]
    b.write_text(json.dumps(content))
    assert compare.table([a, b])[-2:] == ["| CLAP score | 0.3 | - |", "| FAD | - | 0.4 |"]  # alone is not best


def test_a_score_over_fewer_samples_is_not_ranked(tmp_path: Path) -> None:
    paths = []
    for name, share in (("a", Share(4, 8)), ("b", Share(3, 3))):
        (tmp_path / name).mkdir()
        report = Report(conditions())
        report.add_share("then: order", share)
        paths.append(results.write(report, tmp_path / name))
    row = compare.table(paths)[-1]
    assert "**" not in row and ", N 8 |" in row and ", N 3 |" in row


def test_the_page_has_headlines_first_and_three_of_the_worst() -> None:
    report = Report(conditions())
    report.add_mean("KL", torch.arange(8.0), list("abcdefgh"), "down")
    report.add_share("single", Share(1, 2), headline=True)
    page = results.page(report)
    assert page[2].startswith("| single |") and page[3].startswith("| KL |")
    assert page[-1] == "| KL | `h` 7, `g` 6, `f` 5 |" and len(report.outliers) == 8


def test_a_difference_shows_only_what_differs() -> None:
    first = conditions(embedders=["mel:", "clap:x@1"]) | {"versions": {"torch": "1", "numpy": "2"}}
    second = conditions(embedders=["mel:"]) | {"versions": {"torch": "3", "numpy": "2"}}
    assert differences(first, second) == ['embedders ["clap:x@1"] / []', 'versions {"torch": "1"} / {"torch": "3"}']


ODD = (
    '{"conditions": {}, "scores": [{"name": "x"}]}', '{"conditions": [], "scores": []}',
    '{"conditions": {}, "scores": {}}', '{"conditions": {}, "scores": [1]}',
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a report"), ("[]", "no scores"), (None, "no such report"), *((text, "another form") for text in ODD)],
)
def test_what_is_no_report(tmp_path: Path, text: str | None, message: str) -> None:
    good = make(tmp_path / "a", 0.3)
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    with pytest.raises(UserError, match=message):
        compare.table([good, bad])
    with pytest.raises(UserError, match="at least two"):
        compare.table([good])
