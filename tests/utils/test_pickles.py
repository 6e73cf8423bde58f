import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from sonolume.utils.errors import UserError
from sonolume.utils.pickles import read_plain


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", [["abc", "déf"], {"a": [1, 2.5, None]}, {"x", "y"}, OrderedDict(a=(1, b"2"))])
def test_plain_data_comes_back(tmp_path: Path, content: object, protocol: int) -> None:
    if protocol < 3 and isinstance(content, OrderedDict):
        content = OrderedDict(a=(1, "2"))  # old protocols rebuild bytes by a function
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_plain(tmp_path / "a.pkl") == content


def test_nothing_is_executed(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([Runs(tmp_path / "made")]))
    with pytest.raises(UserError, match=r"a\.pkl: not a pickle of plain data, refused \(it asks for posix\.mkdir\)"):
        read_plain(tmp_path / "a.pkl")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04]\x94(\x8c\x03ab", pickle.dumps(["a" * 99])[:-20]])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pkl: not a"):
        read_plain(tmp_path / "a.pkl")


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_plain(tmp_path / "a.pkl")
