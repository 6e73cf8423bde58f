from pathlib import Path

import pytest
import torch

from sonolume.models.evaluation.embedders import cache
from sonolume.models.evaluation.embedders.cache import Row, Store
from sonolume.utils.errors import UserError


def key(number: int) -> bytes:
    return bytes([number]) * 32


def row(number: int, classes: int = 2) -> Row:
    return Row(torch.full((3,), float(number)), torch.full((classes,), float(-number)), number)


def test_rows_come_back(tmp_path: Path) -> None:
    first = Store(tmp_path)
    for number in range(3):
        first.add(key(number), row(number))
    first.flush()
    second = Store(tmp_path)
    second.add(key(3), row(3))
    second.flush()
    again = Store(tmp_path).rows
    assert len(again) == 4 and len(list(tmp_path.iterdir())) == 2
    assert again[key(2)].embedding.tolist() == [2, 2, 2] and again[key(3)].logits.tolist() == [-3, -3]
    assert again[key(3)].flags == 3 and again[key(1)].embedding.dtype == torch.float32


def test_rows_without_classes(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    kept.add(key(1), row(1, classes=0))
    kept.flush()
    assert Store(tmp_path).rows[key(1)].logits.shape == (0,)


def test_rows_are_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FLUSH_ROWS", 2)
    kept = Store(tmp_path)
    for number in range(5):
        kept.add(key(number), row(number))
    assert len(Store(tmp_path).rows) == 4
    monkeypatch.setattr(cache, "FLUSH_SECONDS", -1.0)
    kept.add(key(5), row(5))
    assert len(Store(tmp_path).rows) == 6


def test_without_a_folder_nothing_is_written(in_folder: Path) -> None:
    kept = Store(None)
    kept.add(key(1), row(1))
    kept.flush()
    assert key(1) in kept.rows and not list(in_folder.iterdir())


def test_damage_is_named_and_what_a_killed_run_left_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123456789ab.safetensors").write_bytes(b"half a shard")
    assert Store(tmp_path).rows == {}
    kept = Store(tmp_path)
    kept.add(key(1), row(1))
    kept.flush()
    shard = next(tmp_path.glob("[0-9a-f]*.safetensors"))
    for content in (b"", shard.read_bytes()[:-30], b"hello"):
        shard.write_bytes(content)
        with pytest.raises(UserError, match=f"{shard.name}: damaged"):
            Store(tmp_path)
