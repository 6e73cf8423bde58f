from pathlib import Path

import pytest

from sonolume.models.evaluation.pairing import by_uid, paired
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


def test_files_are_paired_by_name_and_never_by_order() -> None:
    root = Path("made")
    generated = by_uid([root / "b.wav", root / "deep/a.flac", root / "x.wav"], root)
    rows, alone = paired(generated, [Row("d", "deep/a"), Row("d", "b"), Row("d", "c")])
    assert [row.uid for row in rows] == ["deep/a", "b"]
    assert alone == [("c", "nothing generated for it"), ("x", "generated, but not in the reference")]


def test_two_files_of_one_uid() -> None:
    with pytest.raises(UserError, match="same Uid 'a'"):
        by_uid([Path("r/a.wav"), Path("r/a.flac")], Path("r"))


def test_nothing_fits() -> None:
    with pytest.raises(UserError, match="not one generated file .*'a' against 'b'"):
        paired({"a": Path("a.wav")}, [Row("d", "b")])
    with pytest.raises(UserError, match="nothing against 'b'"):
        paired({}, [Row("d", "b")])
