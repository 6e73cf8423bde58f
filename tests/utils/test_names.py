import multiprocessing
from pathlib import Path

import pytest

from sonolume.utils import names


@pytest.mark.parametrize(
    ("given", "taken", "expected"),
    [
        (["a", "b"], [], ["a", "b"]),
        (["a", "A", "a", "b"], [], ["a", "A-2", "a-3", "b"]),
        (["a", "A", "a-2"], [], ["a", "A-3", "a-2"]),  # a name of its own is kept
        (["e\u0301", "\u00e9", "stra\u00dfe", "STRASSE"], [], ["e\u0301", "\u00e9-2", "stra\u00dfe", "STRASSE-2"]),
        (["x/a.", "x/a"], [], ["x/a.", "x/a-2"]),  # Windows drops dots at the end
        (["report", "a"], ["Report", "report-2"], ["report-3", "a"]),
    ],
)
def test_distinct(given: list[str], taken: list[str], expected: list[str]) -> None:
    assert names.distinct(given, taken) == expected


def test_distinct_takes_no_time_for_many_equal_names() -> None:
    assert names.distinct(["a"] * 20_000)[-1] == "a-20000"


def test_uids_and_folders() -> None:
    uids = ["dog/1/x", "dog", "dog/1", "cat.wav/1", "cat"]
    assert names.distinct_uids(uids, [".npy"]) == uids
    assert names.distinct_uids(uids, ["", ".wav"]) == ["dog/1/x", "dog-2", "dog/1-2", "cat.wav/1", "cat-2"]


def test_a_claimed_name_is_free_in_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()  # of another recipe
    (tmp_path / "a-3.wav").touch()  # beyond a gap
    found = [names.reserve(tmp_path, "a", (".wav", ".png")).name for _ in range(4)]
    assert len(set(found)) == 4 and not {"a.wav", "a-3.wav"} & set(found)
    assert all((tmp_path / name).with_suffix(".json").is_file() for name in found)
    assert not any((tmp_path / name).is_file() for name in found)


def test_a_claim_is_given_up_unless_its_json_is_written(tmp_path: Path) -> None:
    first, second = (names.reserve(tmp_path, "a", (".wav",)) for _ in range(2))
    second.with_suffix(".json").write_text("{}")
    for path in (first, second):
        names.release(path)
    assert [path.name for path in tmp_path.iterdir()] == ["a-2.json"]


def test_a_name_among_thousands_needs_few_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 results of one name stand in the folder, each with its wav."""
    asked: list[str] = []
    taken = {"a.wav", *(f"a-{number}.wav" for number in range(2, 4001))}
    monkeypatch.setattr(Path, "exists", lambda self: asked.append(self.name) or self.name in taken)
    assert names.reserve(tmp_path, "a", (".wav",)).name == "a-4001.wav"
    assert len(asked) < 100


def _claim(folder: Path) -> list[str]:
    return [names.reserve(folder, "a", (".wav", ".png")).name for _ in range(100)]


def test_four_processes_claim_different_names(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = [name for part in pool.map(_claim, [tmp_path] * 4, chunksize=1) for name in part]
    assert len(found) == len(set(found)) == 400
