"""bins/results.py: shipped parts are found, evaluated, and written into a page between its markers."""

import json
from pathlib import Path

import pytest

from sonolume.bins import results
from sonolume.models.evaluation import compare
from sonolume.models.evaluation.report import Report, Score, finish
from sonolume.modules.metrics.interval import Share
from sonolume.utils import cli

JUDGES = ("mini/picture_judge", "mini/sound_judge")


def page(folder: Path, text: str = "before\n\n<!-- results -->\nold\n<!-- /results -->\n\nafter\n") -> Path:
    (folder / "PAGE.md").write_text(text)
    return folder / "PAGE.md"


def test_shipped_parts_are_found(root: Path) -> None:
    found = {one.title: one for one in compare.shipped_parts()}
    assert {"tta/autoencoderkl", "tta/audioldm", "tta/hifigan", "mini/sound_judge_second", *JUDGES} <= set(found)
    assert all(one.checkpoint.is_dir() and one.config.is_file() for one in found.values())
    assert found["tta/audioldm"].checkpoint == root / "pretrained" / "mini" / "text_to_audio"
    assert len({one.name for one in found.values()}) == len(found)


def test_audio2img_is_found_once_it_is_shipped(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "egs").symlink_to(root / "egs")
    shipped = tmp_path / "pretrained" / "mini" / "audio2img"
    shipped.mkdir(parents=True)
    monkeypatch.setattr(compare.paths, "root", lambda: tmp_path)
    found = [(one.title, one.config.relative_to(tmp_path), one.checkpoint) for one in compare.shipped_parts()]
    assert found == [("a2i/audio2img", Path("egs/a2i/audio2img/tiny.json"), shipped)]


def test_the_shipped_judges_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judges = [one for one in compare.shipped_parts() if one.title in JUDGES]
    monkeypatch.setattr(compare, "shipped_parts", lambda: judges)
    given = ["--output_dir", str(tmp_path / "out"), "--readme", str(page(tmp_path)), "--num_samples", "32"]
    assert cli.run(results.main, given) == 0
    lines = (tmp_path / "PAGE.md").read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    singles = [line for line in lines if "| single |" in line]
    assert [line.split("`")[1] for line in singles] == list(JUDGES)
    report = json.loads((tmp_path / "out" / "mini_sound_judge" / "report.json").read_text())
    single = next(score for score in report["scores"] if score["name"] == "single")
    assert single["value"] > 0.9 and single["count"] >= 8


def test_rows_are_the_headlines(tmp_path: Path) -> None:
    report = Report({}, [Score("FAD", 1.0, "down"), Score("mel L1", 0.25, "down", 0.2, 0.3, 40, headline=True)])
    report.add_share("single", Share(9, 10), 0.1, {"real": Share(10, 10)}, headline=True)
    finish(report, tmp_path / "a_b")
    one = compare.ShippedPart("a/b", Path("tiny.json"), Path("part"))
    assert compare.results_table([one], tmp_path)[2:] == [
        "| `a/b` | mel L1 | 0.25 (0.2 to 0.3) |  |  | 40 |",
        "| `a/b` | single | 90.0 % (59.6 to 98.2) | 10.0 % | real 100.0 % | 10 |",
    ]


def test_without_a_readme_the_table_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """In an installed package."""
    monkeypatch.setattr(compare, "shipped_parts", lambda: [])
    monkeypatch.setattr(results.paths, "root", lambda: tmp_path)
    assert cli.run(results.main, ["--output_dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("| recipe | score |") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["no marks", "<!-- results -->", "<!-- /results --> <!-- results -->"])
def test_a_page_without_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str,
                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(compare, "shipped_parts", lambda: [])
    assert cli.run(results.main, ["--output_dir", str(tmp_path), "--readme", str(page(tmp_path, text))]) == 2
    assert "must have the lines <!-- results --> and <!-- /results -->" in capsys.readouterr().err
    assert (tmp_path / "PAGE.md").read_text() == text
