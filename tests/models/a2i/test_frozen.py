"""Caching of frozen features."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sonolume.models.a2i import frozen
from sonolume.preprocessors import parallel


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 51

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index)


@pytest.mark.parametrize(
    ("workers", "pays_from", "expected"), [(0, 0, [0]), (2, 99, [0]), (2, 0, [0, 2]), (1, 3, [0, 1])]
)
def test_processes_read_the_rest_when_they_pay(
    workers: int, pays_from: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    class Loader(DataLoader[Any]):
        def __init__(self, *arguments: Any, num_workers: int = 0, **settings: Any) -> None:
            started.append(num_workers)
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(frozen, "DataLoader", Loader)
    monkeypatch.setattr(parallel, "processes_worth", lambda seconds, *_: 1 + (len(seconds) >= pays_from))
    found = list(frozen.batches(Numbers(), workers, None))
    assert torch.cat(found).tolist() == list(range(51)) and started == expected
    assert [len(batch) for batch in found] == [*[frozen.BATCH_SIZE] * 6, 3]
