import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sonolume.utils.errors import UserError
from sonolume.web import reports

MakeReport = Callable[..., Path]


@pytest.fixture
def make_report(tmp_path: Path) -> MakeReport:
    """make_report("name", [0.1, 0.5, 0.9], seed=1): a report of three sounds below tmp_path / "evaluation"."""
    make = runpy.run_path(str(Path(__file__).with_name("made_report.py")))["make_report"]
    return lambda name, *arguments, **more: make(tmp_path / "evaluation" / name, *arguments, **more)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "evaluation"


def change(folder: Path, **changed: Any) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_reports_are_found_by_name(root: Path, make_report: MakeReport) -> None:
    for name in ("b", "a/deep", ".hidden", "1/2/3/4"):
        make_report(name, [0.1, 0.2, 0.3])
    (root / "no report").mkdir()
    assert list(reports.find_reports(root)) == ["a/deep", "b"]
    assert list(reports.find_reports(root / "b")) == ["b"]
    assert reports.find_reports(root / "missing") == {}


def test_no_link_is_followed_to_a_report(root: Path, tmp_path: Path, make_report: MakeReport) -> None:
    real = make_report("a", [0.1, 0.2, 0.3]).rename(tmp_path / "elsewhere")
    (root / "linked").symlink_to(real)
    (root / "copy").mkdir()
    (root / "copy" / "report.json").symlink_to(real / "report.json")
    assert reports.find_reports(root) == {}
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "moved")  # the folder that the user names may be a link
    make_report("b", [0.1, 0.2, 0.3])
    assert list(reports.find_reports(root)) == ["b"]


@pytest.mark.parametrize("name", ["../evaluation/a", "/etc", "", None, 3, ["a"], {"a": 1}, "a/", "a\0"])
def test_a_name_that_is_not_listed(root: Path, make_report: MakeReport, name: object) -> None:
    make_report("a", [0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="no report of this name"):
        reports.read(root, name)


def test_scores_with_interval_baselines_and_count(root: Path, make_report: MakeReport) -> None:
    make_report("a", [0.25, 0.5, 0.75])
    report = reports.read(root, "a")
    header, first, second, third = report.table
    assert header == ["score", "value (95 %)", "chance", "real", "better", "N", "note"]
    assert first == ["single", "66.7 % (20.8 to 93.9)", "10.0 %", "", "up", "3", ""]  # the headline
    assert second[0] == "CLAP score" and second[1].startswith("0.5 (") and second[3].startswith("0.9 (")
    assert third[-1] == "of the whole sets"
    assert report.summary == "model bell, num_steps 20; 1 silent generated."
    assert [note.split(":")[0] for note in report.notes] == ["FAD"]
    assert ["seed", "0"] in reports.conditions_table(report)


def test_values_of_wrong_types_are_missing(root: Path, make_report: MakeReport) -> None:
    folder = make_report("a", [0.25, 0.5, 0.75])
    odd = {"name": "x\x1b\ud800", "value": "1", "better": [], "low": True, "high": 10**400, "count": "3"}
    outliers = [["x", "a", 1], ["x", 2, 1], ["x", "a"], "x", ["x", "a", float("inf")]]
    change(folder, scores=[odd, odd | {"baselines": {"r": [None], "s": 1}}], outliers=outliers, facts=[], counts=None)
    report = reports.read(root, "a")
    assert report.table[1][:2] == ["x\\x1b\\ud800", "-"] and report.summary == "."
    assert report.outliers == [("x", "a", 1.0)]
    assert reports.comparison(report, report)[1] == ["x\\x1b\\ud800", "-", "-", "", ""]


@pytest.mark.parametrize("content", ["{", "[]", '{"conditions": {}, "scores": [{}]}', "[" * 100_000])
def test_a_damaged_report_names_no_folder_of_the_server(root: Path, make_report: MakeReport, content: str) -> None:
    (make_report("a", [0.1, 0.2, 0.3]) / "report.json").write_text(content)
    with pytest.raises(UserError, match=r"^a/report\.json: ") as error:
        reports.read(root, "a")
    assert str(root) not in str(error.value)


def test_two_reports_of_the_same_conditions_are_ranked(root: Path, make_report: MakeReport) -> None:
    for name, values in (("a", [0.25, 0.5, 0.75]), ("b", [0.5, 0.75, 1.0])):
        make_report(name, values)
    a, b = (reports.read(root, name) for name in "ab")
    rows = {row[0]: row[1:] for row in reports.comparison(a, b)}
    assert rows["CLAP score"][2:] == ["+0.25", "B"] and rows["single"][2:] == ["0.0 points", "equal"]
    assert {row[0]: row[1:] for row in reports.comparison(b, a)}["CLAP score"][2:] == ["-0.25", "A"]
    assert reports.different_conditions(a, b) == []


def test_two_reports_of_other_conditions_are_not_ranked(root: Path, make_report: MakeReport) -> None:
    make_report("a", [0.25, 0.5, 0.75])
    make_report("b", [0.5, 0.75, 1.0], seed=1)
    a, b = (reports.read(root, name) for name in "ab")
    assert reports.different_conditions(a, b) == ["seed"]
    assert all(row[3:] == ["", ""] for row in reports.comparison(a, b)[1:])
    assert ["seed", "0", "1", "differs"] in reports.conditions_table(a, b)


def test_worst_samples_with_files_and_captions(root: Path, make_report: MakeReport) -> None:
    make_report("a", [0.5, 0.25, 0.75])
    report = reports.read(root, "a")
    assert reports.rankings(report) == [("worst by CLAP score", "CLAP score"), ("all samples", "")]
    assert reports.samples(report, "CLAP score") == {"b": "0.25: b", "a": "0.5: a", "c": "0.75: c"}
    assert list(reports.samples(report, "")) == ["a", "b", "c"]
    assert reports.caption(report, "a") == "<b>A bell</b> rings" and reports.caption(report, "zz") == ""
    shown = reports.sample(report, "a")
    assert [one.title for one in shown] == ["generated", "reference", "pictures"]
    assert shown[2].picture and shown[2].picture.size == (8, 6)
    for wrong in ("FAD clap", None, ["CLAP score"]):
        with pytest.raises(UserError, match="no such list"):
            reports.samples(report, wrong)


def test_a_sound_keeps_its_samples(root: Path, make_report: MakeReport) -> None:
    folder = make_report("a", [0.5, 0.25, 0.75])
    stereo = np.random.default_rng(0).uniform(-1.5, 1.5, (3000, 2)).astype(np.float32)
    stereo[0] = np.nan, np.inf
    soundfile.write(folder / "generated" / "b.wav", stereo, 44100, subtype="FLOAT")
    report = reports.read(root, "a")
    sound = reports.sample(report, "a")[0].sound
    expected = soundfile.read(folder / "generated" / "a.wav", dtype="int16")[0]
    assert sound and sound[0] == 16000 and np.array_equal(sound[1], expected)
    loud = reports.sample(report, "b")[0].sound
    assert loud and loud[0] == 44100 and loud[1].shape == (3000, 2) and loud[1][0].tolist() == [0, 32767]


def test_a_long_sound_is_cut(root: Path, make_report: MakeReport, monkeypatch: pytest.MonkeyPatch) -> None:
    make_report("a", [0.5, 0.25, 0.75])
    monkeypatch.setattr(reports, "MAX_SECONDS", 0.25)
    sound = reports.sample(reports.read(root, "a"), "a")[0].sound
    assert sound and sound[1].shape == (4000,)


def test_an_unreadable_file_does_not_hide_the_others(root: Path, make_report: MakeReport) -> None:
    folder = make_report("a", [0.5, 0.25, 0.75])
    (folder / "generated" / "a.wav").write_bytes(b"RIFF")
    (folder / "pictures" / "a.png").write_bytes(b"")
    shown = reports.sample(reports.read(root, "a"), "a")
    assert [one.title for one in shown] == ["generated (unreadable)", "reference", "pictures (unreadable)"]


def test_files_outside_the_report_are_not_read(root: Path, tmp_path: Path, make_report: MakeReport) -> None:
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, np.zeros(1000), 16000)
    folder = make_report("a", [0.5, 0.25, 0.75])
    (folder / "generated" / "linked.wav").symlink_to(secret)
    (folder / "outside").symlink_to(tmp_path)
    (folder / "plan.png").symlink_to(folder / "worst.png")
    hostile = ["../../../secret", str(secret.with_suffix("")), "linked", "secret", "..", "", "x" * 5000, "../b/a"]
    change(folder, outliers=[["CLAP score", uid, 0.1] for uid in hostile])
    report = reports.read(root, "a")
    for uid in hostile:
        assert reports.sample(report, uid) == [], uid
        assert reports.caption(report, uid) == ""
    change(folder, outliers=[["CLAP score", "a\0\ud800", 0.1]])
    (uid,) = reports.samples(reports.read(root, "a"), "CLAP score")
    assert uid == "a\\x00\\ud800" and reports.sample(reports.read(root, "a"), uid) == []
    assert [path.name for path in reports.columns(report)] == ["generated", "reference", "pictures"]
    assert [name for _, name in reports.figures(report)] == ["worst"]
    os.remove(folder / "reference" / "settings.json")
    (folder / "reference" / "settings.json").symlink_to(tmp_path / "secret.wav")
    assert reports.caption(report, "a") == ""


@pytest.mark.parametrize("uid", ["zz", None, 3, ["a"], "../a"])
def test_a_sample_that_is_not_listed(root: Path, make_report: MakeReport, uid: object) -> None:
    make_report("a", [0.5, 0.25, 0.75])
    with pytest.raises(UserError, match="no such sample"):
        reports.sample(reports.read(root, "a"), uid)


def test_the_same_sample_of_two_reports(root: Path, make_report: MakeReport) -> None:
    make_report("a", [0.5, 0.25, 0.75])
    other = make_report("b", [0.5, 0.25, 0.75], level=0.75)
    (other / "reference" / "b.wav").unlink()
    a, b = (reports.read(root, name) for name in "ab")
    titles = {uid: [one.title for one in reports.sample(a, uid, b)] for uid in "ab"}
    assert titles["a"] == ["A: generated", "B: generated", "A and B: reference", "A and B: pictures"]
    assert titles["b"] == ["A: generated", "B: generated", "A: reference"]
    first, second, *_ = reports.sample(a, "a", b)
    assert first.sound and second.sound and second.sound[1].max() > 1.4 * first.sound[1].max()  # not normalised
