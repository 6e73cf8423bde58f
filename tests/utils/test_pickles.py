import os
import pickle
import pickletools
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sonolume.utils.errors import UserError
from sonolume.utils.pickles import read_arrays, read_plain


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


def arrays() -> dict[str, np.ndarray]:
    values = np.arange(12).reshape(3, 4)
    return {
        "half": values.astype(np.float16), "single": values.astype(np.float32), "double": values.astype(np.float64),
        "columns": np.asfortranarray(values.astype(np.float32)), "strided": np.arange(48.0).reshape(6, 8)[::2, ::2],
        "big": values.astype(">f4"), "none": np.zeros((0, 4), np.float32), "whole": values.astype(np.int64),
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_numbers_come_back(tmp_path: Path, protocol: int) -> None:
    written = {"image": arrays(), "rows": [np.ones(3)], "pair": (1, "a")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(written, protocol))
    found = read_arrays(tmp_path / "a.pkl")
    assert found["pair"] == (1, "a") and found["rows"][0].tolist() == [1, 1, 1]
    for name, array in arrays().items():
        assert np.array_equal(found["image"][name], array)
        assert found["image"][name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_both_numpys(tmp_path: Path, protocol: int) -> None:
    """numpy 1 calls its core numpy.core, numpy 2 numpy._core."""
    content = pickletools.optimize(pickle.dumps({"a": np.ones((2, 3), np.float32)}, protocol))
    old, new = (content.replace(b"numpy._core", b"numpy.core"), content.replace(b"numpy.core", b"numpy._core"))
    if protocol == 4:  # its strings and frames begin with their lengths
        old = re.sub(rb"\x95.{8}", b"", old, flags=re.DOTALL)
        old = old.replace(b"\x16numpy.core.multiarray", b"\x15numpy.core.multiarray")
    for number, one in enumerate((old, new)):
        (tmp_path / f"{number}.pkl").write_bytes(one)
        assert read_arrays(tmp_path / f"{number}.pkl")["a"].tolist() == [[1, 1, 1], [1, 1, 1]]


class System:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo run > executed",)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"a": System()}, "system"), ({"a": np.array([System()], object)}, "O8"), (np.array(["text"]), "U4"),
        (np.zeros(2, [("a", "f4")]), "V4"), (np.load, "numpy.load"), (np.zeros(2, "M8[s]"), "M8"),
    ],
)  # fmt: skip
def test_other_arrays_and_code_are_refused(in_folder: Path, content: object, named: str, protocol: int) -> None:
    (in_folder / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=rf"a\.pkl: not a pickle of .*refused.*{named}"):
        read_arrays(in_folder / "a.pkl")
    assert [file.name for file in in_folder.iterdir()] == ["a.pkl"]


def test_arrays_are_no_plain_data_and_lie_about_nothing(tmp_path: Path) -> None:
    whole = pickle.dumps(np.ones(4), 4)
    (tmp_path / "a.pkl").write_bytes(whole)
    with pytest.raises(UserError, match="refused"):
        read_plain(tmp_path / "a.pkl")
    (tmp_path / "b.pkl").write_bytes(whole.replace(b"K\x04\x85", b"K\x05\x85"))  # five numbers announced, four stored
    itself: list[Any] = []
    itself.append(itself)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(itself))
    for name in ("b", "c"):
        with pytest.raises(UserError, match=rf"{name}\.pkl: not a"):
            read_arrays(tmp_path / f"{name}.pkl")
