from pathlib import Path

import pytest

from sonolume.utils import paths


def test_root_is_the_checkout_wherever_we_stand(root: Path, in_folder: Path) -> None:
    assert paths.root() == root


def test_root_without_a_checkout_is_the_working_directory(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "__file__", str(in_folder / "site-packages" / "sonolume" / "utils" / "paths.py"))
    assert paths.root() == in_folder


def test_resolve(root: Path, in_folder: Path) -> None:
    assert paths.resolve("data/x") == root / "data/x"
    assert paths.resolve("/abs/x") == Path("/abs/x")
    assert paths.resolve("~/x") == Path.home() / "x"
