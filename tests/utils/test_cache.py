import errno
import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sonolume.utils.cache import cached, content_hash, locked
from sonolume.utils.errors import UserError
from tests.runs import HOLD, PIPES


def test_content_is_made_once_for_each_key(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "x.txt").write_text("x")

    first = cached(tmp_path, {"width": 4}, make, "latents of valid")
    assert first.parent == tmp_path and first.name.startswith("latents_of_valid-")
    assert cached(tmp_path, {"width": 4}, make, "latents of valid") == first and len(made) == 1
    assert cached(tmp_path, {"width": 8}, make, "latents of valid") != first and len(made) == 2


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "x.txt").write_text("x")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cached(tmp_path, 1, fail, "latents")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_hashes_depend_on_every_part_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    weights = torch.ones(2)
    contents: list[Any] = [
        "a", 1, [1], {"a": 1}, {"a": 2}, tmp_path / "a", tmp_path / "b", b"a", np.ones(2), {"w": weights},
        {"w": weights * 2}, {"v": weights}, [weights, "a"], [weights, "b"],
    ]  # fmt: skip
    hashes = [content_hash(content) for content in contents]
    assert len(set(hashes)) == len(hashes) and all(len(one) == 12 for one in hashes)
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash(weights) == content_hash(weights.bfloat16()) == content_hash(np.ones(2, np.float32))
    assert content_hash(one for one in [weights, "a"]) == content_hash([weights, "a"])


def test_one_process_at_a_time_and_a_killed_one_releases_the_lock(tmp_path: Path) -> None:
    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLD, str(tmp_path / "new folder" / ".lock")]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    first = start()
    assert first.stdout and first.stdout.readline() == "inside\n"
    second = start()
    assert second.stderr and "another process is counting" in second.stderr.readline()
    first.kill()
    first.communicate()
    out, _ = second.communicate("go on\n")
    assert (out, second.returncode) == ("inside\n", 0)


def test_a_process_that_does_not_wait_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], text=True, **PIPES) as first:
        assert first.stdout and first.stdout.readline() == "inside\n"
        with pytest.raises(UserError, match="another process is training"), locked(path, "training", wait=False):
            pass
        first.kill()
    with locked(path, "training", wait=False):  # though its child may still live
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with locked(tmp_path / ".lock", "training", wait=False):
        assert "No locks available" in capsys.readouterr().err
