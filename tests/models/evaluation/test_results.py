import json
import math
from pathlib import Path

import pytest
import torch

from sonolume.models.evaluation import compare, results
from sonolume.models.evaluation.protocol import Fingerprint, differences, digest, fingerprint
from sonolume.models.evaluation.results import Result, Score
from sonolume.utils.errors import UserError


def conditions(**more: object) -> Fingerprint:
    base = {"embedders": ["clap:x@1"], "reference": ["b", "a"], "generated": 2, "versions": {"torch": "2"}}
    return fingerprint(**(base | more))  # type: ignore[arg-type]


def make(folder: Path, value: float, better: str = "up", **more: object) -> Path:
    folder.mkdir()
    return results.write(Result(conditions(**more), [Score("CLAP score", value, better)]), folder)


def test_the_fingerprint_ignores_order_and_sees_everything_else() -> None:
    same = conditions(reference=["a", "b"])
    assert digest(conditions()) == digest(same)
    for change in ({"reference": ["a", "c"]}, {"embedders": ["clap:x@2"]}, {"generated": 3}, {"window": 10}):
        other = conditions(**change)
        assert digest(other) != digest(same)
        assert next(iter(change)) in " ".join(differences(same, other))


def test_a_result_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    result = Result(conditions(), facts={"model": "mine"}, counts={"silent": 1}, left_out=[("c.wav", "unreadable")])
    result.add_mean("CLAP score", torch.tensor([0.1, 0.9, 0.5]), ["a", "b", "c"], chance=0.0)
    result.scores.append(Score("FAD", math.nan, "down", count=3, note="3 < 2 x 512"))
    content = json.loads(results.write(result, tmp_path, ["samples.png"]).read_text())
    assert content["fingerprint"] == digest(result.conditions)
    assert content["scores"][0]["value"] == pytest.approx(0.5)
    assert content["scores"][0]["low"] < 0.5 < content["scores"][0]["high"]
    assert content["scores"][1]["value"] is None
    assert content["outliers"][0][:2] == ["CLAP score", "a"]  # the worst of what should be high
    page = (tmp_path / "report.md").read_text()
    for piece in ("model mine", "3 < 2 x 512", "1 silent", "`c.wav`: unreadable", "![](samples.png)", "| `a` |"):
        assert piece in page


def test_outliers_of_a_distance_are_the_largest() -> None:
    result = Result(conditions())
    result.add_mean("mel L1", torch.tensor([0.1, 0.9]), ["a", "b"], better="down")
    assert result.outliers[0] == ("mel L1", "b", pytest.approx(0.9))


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
    assert compare.table([a, b])[-2:] == ["| CLAP score | **0.3** | - |", "| FAD | - | **0.4** |"]


@pytest.mark.parametrize(("text", "message"), [("{", "not a report"), ("[]", "no scores"), (None, "no such report")])
def test_what_is_no_report(tmp_path: Path, text: str | None, message: str) -> None:
    good = make(tmp_path / "a", 0.3)
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    with pytest.raises(UserError, match=message):
        compare.table([good, bad])
    with pytest.raises(UserError, match="at least two"):
        compare.table([good])
