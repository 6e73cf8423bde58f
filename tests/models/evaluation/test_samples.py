"""Files by Uid, made again after a kill, in other orders and batches, and never mixed."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sonolume.models.evaluation import samples
from sonolume.models.evaluation.samples import SOUND, Samples, generate_files, seed_of
from sonolume.utils.errors import UserError

INPUTS = {uid: f"text of {uid}" for uid in ("a", "b", "deep/c", "d", "e", "f", "g")}
KILLED_AT = 5  # the write that does not end
CHILD = """
import os, signal, sys
from pathlib import Path
from sonolume.models.evaluation import samples

written = 0

def make(uids, seeds):
    return [f"{uid} {seed} {sum(seeds)}" for uid, seed in zip(uids, seeds)]  # depends on the batch, as networks do

def save(path, sample, sample_rate):
    global written
    written += 1
    path.write_text(sample[:3])
    if written == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_text(sample)

inputs = {uid: f"text of {uid}" for uid in ("a", "b", "deep/c", "d", "e", "f", "g")}
samples._save = save
samples.generate_files(Path(sys.argv[1]), inputs, {"steps": 20}, make, 16000, batch_size=3)
"""

Make = Callable[[list[str], list[int]], list[str | None]]


@pytest.fixture(autouse=True)
def texts_as_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_save", lambda path, text, sample_rate: path.write_text(text))


def describe(uids: list[str], seeds: list[int]) -> list[str | None]:
    return [f"{uid} {seed}" for uid, seed in zip(uids, seeds, strict=True)]


def run(folder: Path, inputs: dict[str, str] = INPUTS, make: Make = describe, **more: Any) -> dict[str, str]:
    settings = more.pop("settings", {"steps": 20})
    files = generate_files(folder, inputs, settings, make, 16000, **more)  # type: ignore[arg-type]
    return {uid: path.read_text() for uid, path in files.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    def child(folder: str, dies_at: int) -> int:
        return subprocess.run([sys.executable, "-c", CHILD, tmp_path / folder, str(dies_at)]).returncode

    assert child("whole", 0) == 0
    assert child("killed", KILLED_AT) == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "killed").rglob("*.wav")]
    assert len([name for name in left if not name.startswith(".")]) == KILLED_AT - 1
    assert len(left) == KILLED_AT  # the one that was being written, under no Uid's name
    assert child("killed", 0) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_seed_depends_on_nothing_but_the_runs_seed_and_the_uid(tmp_path: Path) -> None:
    first = run(tmp_path / "1", batch_size=1)
    assert run(tmp_path / "2", dict(reversed(INPUTS.items())), batch_size=3) == first
    assert run(tmp_path / "3", {"d": INPUTS["d"]}) == {"d": first["d"]}
    other = run(tmp_path / "4", seed=1)
    assert all(other[uid] != first[uid] for uid in INPUTS)
    assert len(set(first.values())) == len(INPUTS)
    assert all(0 <= seed_of(seed, "x") < 2**63 for seed in range(100))


def test_existing_files_stay_and_more_may_join(tmp_path: Path) -> None:
    asked: list[str] = []

    def make(uids: list[str], seeds: list[int]) -> list[str | None]:
        asked.extend(uids)
        return describe(uids, seeds)

    few = {uid: INPUTS[uid] for uid in ("a", "b")}
    before = run(tmp_path, few, make)
    assert run(tmp_path, few, make) == before and asked == ["a", "b"]
    assert run(tmp_path, INPUTS, make, batch_size=2) == run(tmp_path / "at once")
    assert asked == ["a", "b", *list(INPUTS)[2:]]
    assert run(tmp_path, few, make) == before  # files of other Uids are not in the way


def test_failed_samples_have_no_file(tmp_path: Path) -> None:
    def make(uids: list[str], seeds: list[int]) -> list[str | None]:
        return [None if uid == "b" else uid for uid in uids]

    assert list(run(tmp_path, make=make)) == [uid for uid in INPUTS if uid != "b"]
    assert not (tmp_path / "b.wav").exists()


def test_an_empty_file_is_made_anew(tmp_path: Path) -> None:
    before = run(tmp_path)
    (tmp_path / "a.wav").write_text("")
    assert run(tmp_path) == before


def test_other_settings_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"of other settings \(then / now\): seed 0 / 1; steps 20 / 10: choose another"):
        run(tmp_path, settings={"steps": 10}, seed=1)
    with pytest.raises(UserError, match="a was generated from 'text of a', not 'another'"):
        run(tmp_path, INPUTS | {"a": "another"})
    assert contents(tmp_path) == before


def test_files_of_unknown_origin_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("whose?")
    with pytest.raises(UserError, match="no settings.json"):
        run(tmp_path)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="settings.json"):
        run(tmp_path)
    assert (tmp_path / "a.wav").read_text() == "whose?"


@pytest.mark.parametrize("uid", ["../up", "/top", "", ".hidden"])
def test_a_uid_that_leads_out_of_the_folder(tmp_path: Path, uid: str) -> None:
    with pytest.raises(UserError, match="is no file name inside"):
        run(tmp_path / "in", {uid: "x"})
    assert not list(tmp_path.iterdir())


def test_shuffled_samples_never_keep_their_own() -> None:
    files = {uid: Path(f"{uid}.wav") for uid in "abc"}
    assert Samples(SOUND, files).shuffled().generated == {
        "a": Path("b.wav"), "b": Path("c.wav"), "c": Path("a.wav"),
    }  # fmt: skip
