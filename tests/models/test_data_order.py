"""Orders of training items: complete, the same for any number of processes and workers, and resumed at any position."""

import itertools
import json
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from sonolume.config.load import load_config
from sonolume.models import data_order
from sonolume.models.data_order import UNITS, BlockOrder, EpochOrder, MixedOrder, Order, count_rows, make_order
from sonolume.models.training import StepBatches
from sonolume.models.tta.features import MelDataset
from sonolume.utils.errors import UserError
from tests import runs
from tests.runs import PowerCut, cut_power

SHARDS = [5, 1, 0, 9, 4, 4, 7, 0, 3, 8]  # rows of each
ROWS = sum(SHARDS)
SHARD_OF = np.repeat(range(len(SHARDS)), SHARDS)  # of each row


def blocks() -> BlockOrder:
    return BlockOrder(SHARDS, seed=3, group=4)


def mixed() -> MixedOrder:
    return MixedOrder([blocks(), EpochOrder(10, seed=4), BlockOrder([2] * 9, seed=5, group=4)], [5, 2, 1.5])


def items(order: Order, positions: Sequence[int]) -> list[tuple[int, int]]:
    return [order.item(position) for position in positions]


ORDERS = pytest.mark.parametrize("make", [blocks, mixed, lambda: EpochOrder(41, seed=1)])


def test_the_order_of_one_window_is_that_of_the_first_runs():
    """The permutation is written out here: checkpoints of any age continue with it."""
    for order in (EpochOrder(41, seed=7), make_order([[20, 21]], [], seed=7), make_order([[2] * 16 + [9]], [], 7, {})):
        expected = []
        for epoch in range(3):
            generator = torch.Generator().manual_seed(7 * 1_000_003 + epoch)
            expected += [(epoch, row) for row in torch.randperm(order.rows, generator=generator).tolist()]
        assert isinstance(order, EpochOrder) and items(order, range(3 * order.rows)) == expected


def test_the_orders_stay_what_they_are():
    """Recorded when they were new; another order would change runs that are resumed."""
    assert items(blocks(), range(38, 44)) == [(0, 17), (0, 18), (0, 15), (1, 9), (1, 27), (1, 26)]
    assert items(mixed(), range(40, 46)) == [(0, 49), (0, 22), (0, 57), (0, 39), (1, 45), (0, 38)]


def test_each_row_comes_once_an_epoch_and_few_shards_at_a_time():
    found = items(blocks(), range(5 * ROWS))
    assert Counter(found) == Counter(itertools.product(range(5), range(ROWS)))
    epochs = [[row for epoch, row in found if epoch == number] for number in range(5)]
    assert len({tuple(rows) for rows in epochs}) == 5
    for rows in epochs:
        shards, sizes = SHARD_OF[rows], []
        while len(shards):  # the longest beginning with at most four shards is at least a window
            seen = [len(set(shards[: count + 1])) for count in range(len(shards))]
            sizes.append(sum(number <= 4 for number in seen))
            shards = shards[sizes[-1] :]
        assert len(sizes) <= 3


@ORDERS
def test_any_position_at_once(make: Callable[[], Order]):
    positions = np.random.default_rng(0).permutation(200).tolist()
    whole, order = items(make(), range(200)), make()
    assert items(order, positions) == [whole[position] for position in positions]
    assert [make().item(position) for position in positions[:20]] == [whole[position] for position in positions[:20]]


@ORDERS
def test_batches_are_independent_of_processes_and_workers(make: Callable[[], Order]):
    one = list(StepBatches(make(), 8, 20))
    for world in (2, 4):
        ranks = [StepBatches(make(), 8 // world, 20, rank=rank, world=world) for rank in range(world)]
        assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == one

    class Echo(Dataset[Any]):
        def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:
            return item

    for workers, start in ((0, 3), (2, 3)):  # resumed in the middle of a window
        loader = DataLoader(Echo(), batch_sampler=StepBatches(make(), 8, 20, start), num_workers=workers,
                            collate_fn=list)  # fmt: skip
        assert list(loader) == one[start:]


def test_neighbours_in_a_window_are_of_independent_shards():
    order = BlockOrder([640] * 32, seed=1, group=16)
    found = np.array([row // 640 for _, row in items(order, range(640 * 16))])
    numbers = np.unique(found, return_inverse=True)[1]
    counts = np.bincount(16 * numbers[:-1] + numbers[1:], minlength=256)
    expected = len(counts) and (len(found) - 1) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * (2 * 255) ** 0.5  # five standard deviations


def test_a_hundred_million_rows_fit_in_little_memory():
    shards = np.full(10_000, 10_000)
    tracemalloc.start()
    order = make_order([shards], [], seed=1)
    last = order.item(99_999_999)
    first = order.item(0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert last[0] == first[0] == 0 and last[1] != first[1] and order.item(100_000_000)[0] == 1
    assert peak < 50e6


class Numbers:
    """An order of which only the number of rows matters."""

    rows = 1

    def item(self, position: int) -> tuple[int, int]:
        return position, 0

    def settings(self) -> dict[str, Any]:
        return {}


WEIGHTS = [[1], [1, 2], [1e-3, 1], [3, 1, 3], [0.3, 0.3, 0.2, 0.2], [9, 1, 1, 9], [*range(1, 12)]]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("start", [0, 10**12])
def test_shares_are_those_of_the_weights(weights: list[float], start: int):
    """Among any number of first positions; by half the depth of the tree."""
    order = MixedOrder([Numbers() for _ in weights], weights)
    depth = (len(weights) - 1).bit_length()
    assert sum(order.weights) == UNITS
    assert [unit / UNITS for unit in order.weights] == pytest.approx([one / sum(weights) for one in weights], abs=1e-9)
    counts: dict[int, int] = {}
    for position in range(start, start + 2000):
        number, inside = order.place(position)
        assert inside == counts.get(number, inside)
        counts[number] = inside + 1
        for other, count in counts.items():
            exact = (position + 1) * order.weights[other]  # in units
            assert abs(count * UNITS - exact) < max(depth, 1) * UNITS / 2


def test_mixed_data_sets_have_their_own_epochs():
    order = mixed()
    found, firsts = items(order, range(600)), [0, ROWS, ROWS + 10, ROWS + 28]
    assert order.rows == firsts[-1]
    for first, end in itertools.pairwise(firsts):
        mine = [item for item in found if first <= item[1] < end]
        whole, size = len(mine) // (end - first), end - first
        assert whole >= 3
        expected = Counter(itertools.product(range(whole), range(first, end)))
        assert Counter(mine[: whole * size]) == expected


def test_equal_data_sets_do_not_run_in_step():
    order = make_order([[50], [50]], [1, 1], seed=1)
    rows = [row for _, row in items(order, range(100))]
    assert [row for row in rows if row < 50] != [row - 50 for row in rows if row >= 50]


SHARDED: list[list[int]] = [SHARDS * 2, [10]]
MANY = [SHARDS * 2 + [10]]


@pytest.mark.parametrize(
    ("shards", "weights"), [(MANY, []), (SHARDED, [3, 1]), ([[4], [5], [6]], [1, 1, 2]), ([SHARDS], []), (MANY, [1])]
)
def test_a_resumed_run_keeps_its_order(
    shards: list[list[int]], weights: list[float], monkeypatch: pytest.MonkeyPatch
):
    order = make_order(shards, weights, 1)
    saved = json.loads(json.dumps(order.settings()))
    monkeypatch.setattr(data_order, "GROUP", 17)  # of a later version
    again = make_order(shards, weights, 1, saved)
    assert items(again, range(200)) == items(order, range(200))
    new = make_order(shards, weights, 1)
    is_sharded = len(shards[0]) > 17
    assert (items(new, range(200)) != items(order, range(200))) is is_sharded


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ((SHARDED, [3, 1]), (SHARDED, [1, 1]), "began with the shares 0.75, 0.25, not 0.5, 0.5: "),
        ((SHARDED, [3, 1]), (MANY, []), "began with the shares 0.75, 0.25, not none: "),
        ((MANY, []), (SHARDED, [3, 1]), "began with the shares none, not 0.75, 0.25: "),
        (([[9]], []), ([[4], [5]], [3, 1]), "began with the shares none, not 0.75, 0.25: "),
        (([[4], [5]], [3, 1]), ([[4], [6]], [3, 1]), r"began with 4 rows \+ 5 rows, not 4 rows \+ 6 rows: "),
        ((MANY, []), ([[1] * 20], []), r"began with 92 rows in 21 shards \(sizes \w{8}\), not 20 rows in 20 shards"),
        ((MANY, []), ([[1] * 5], []), "not at most one window of shards: restore the training data"),
        ((MANY, []), ([MANY[0][::-1]], []), "92 rows in 21 shards .*, not 92 rows in 21 shards"),
    ],
)
def test_a_run_is_not_resumed_in_another_order(before: Any, now: Any, message: str):
    saved = make_order(*before, seed=1).settings()
    with pytest.raises(UserError, match=message) as caught:
        make_order(*now, seed=1, saved=saved)
    assert "\n" not in str(caught.value) and "exp_name" in str(caught.value)


def test_a_run_without_settings_continues_with_more_rows():
    """As it always did: its checkpoints do not contain the number of rows."""
    assert make_order([[1] * 50], [], 1, {}).rows == 50


def test_no_items():
    with pytest.raises(UserError, match="data set 2 of 2"):
        make_order([[3], [0, 0]], [1, 1], 1)
    with pytest.raises(UserError, match="no training items"):
        make_order([[0]], [], 1)


class Items(SimpleNamespace):
    """A data set with some of the methods of `TrainingData.train`."""

    def __len__(self) -> int:
        return 9


def rows(*names: str) -> list[Any]:
    return [SimpleNamespace(dataset=name) for name in names]


def lists(found: list[np.ndarray]) -> list[list[int]]:
    return [one.tolist() for one in found]


def test_rows_of_each_data_set():
    sharded = {"shard_rows": lambda: [2, 2, 0, 5]}
    assert lists(count_rows(Items(), ["a", "b"], weighted=False)) == [[9]]
    assert lists(count_rows(Items(**sharded), ["a", "b"], weighted=False)) == [[2, 2, 0, 5]]
    assert lists(count_rows(Items(rows=rows(*"aaabbbbbb")), ["a", "b"], weighted=True)) == [[3], [6]]
    sized = Items(**sharded, dataset_sizes=lambda: [4, 5])
    assert lists(count_rows(sized, ["a", "b"], weighted=True)) == [[2, 2, 0], [5]]
    with pytest.raises(ValueError, match="do not make up"):
        count_rows(Items(**sharded, dataset_sizes=lambda: [3, 6]), ["a", "b"], weighted=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Items(), "cannot be weighted"),
        (Items(rows=range(9)), "cannot be weighted"),
        (Items(rows=rows(*"aab")), "cannot be weighted"),
        (Items(rows=rows(*"aaaaaaaaa")), "dataset is a, b, but the training items are of a: "),
        (Items(rows=rows(*"bbbaaaaaa")), "dataset is a, b, but the training items are of b, a: "),
    ],
)
def test_items_that_cannot_be_weighted(data: Items, message: str):
    with pytest.raises(UserError, match=message):
        count_rows(data, ["a", "b"], weighted=True)


@pytest.fixture
def two_data_sets(tiny_config: Callable[..., Path], tiny_data: Path, tmp_path: Path) -> Path:
    """A config of the autoencoder for "noise" with 10 items and "hiss" with 4."""
    folder = tmp_path / "data"
    for name in ("noise", "hiss"):
        shutil.copytree(tiny_data / "noise", folder / name, ignore=shutil.ignore_patterns("cache"))
    train = folder / "hiss" / "train.json"
    train.write_text(json.dumps(json.loads(train.read_text())[:4]))
    config = tiny_config("tta/autoencoderkl", preprocess={"processed_dir": str(folder)})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dataset": ["noise", "hiss"]}))
    return config


def test_a_weighted_run_resumes_exactly(two_data_sets: Path, monkeypatch: pytest.MonkeyPatch):
    """Shards of one data set, in windows of two, mixed with another; cut in the middle of a window."""
    seen: list[tuple[int, int]] = []
    read = MelDataset.__getitem__

    def recorded(data: MelDataset, item: tuple[int, int]) -> Any:
        if len(data.rows) == 14:
            seen.append(item)
        return read(data, item)

    monkeypatch.setattr(data_order, "GROUP", 2)
    monkeypatch.setattr(MelDataset, "__getitem__", recorded)
    monkeypatch.setattr(MelDataset, "shard_rows", lambda _: [3, 3, 4, 2, 2], raising=False)
    weights = ["train.dataset_weights=[3,1]", "train.save_summary_steps=2"]
    whole = runs.assert_resumes(two_data_sets, weights, at=11)
    order = make_order([[3, 3, 4], [2, 2]], [3, 1], load_config(two_data_sets).train.random_seed)
    expected = items(order, range(32))
    assert [row >= 10 for _, row in expected].count(True) == 8
    assert seen == expected + expected[:24] + expected[16:]  # whole, cut, resumed from its checkpoint of batch 8
    assert runs.last(whole)["callbacks"]["Position"]["order"] == order.settings()

    board = EventAccumulator(str(whole / "tensorboard"))
    board.Reload()
    waits = board.Scalars("train/data_wait")
    assert [event.step for event in waits] == [event.step for event in board.Scalars("train/loss")]
    assert len(waits) == 8 and all(0 < event.value < 1 for event in waits)
    other = load_config(two_data_sets, ["exp_name=whole", "train.dataset_weights=[1,1]", "train.max_steps=17"])
    with pytest.raises(UserError, match=r"shares 0.75, 0.25, not 0.5, 0.5"):
        runs.train(other, resume=True)


def test_a_run_that_began_without_shards_keeps_its_order(two_data_sets: Path, monkeypatch: pytest.MonkeyPatch):
    short = ["train.max_steps=4", "train.save_checkpoints_steps=1"]
    whole = runs.train(load_config(two_data_sets, ["exp_name=whole", *short]))
    config = load_config(two_data_sets, ["exp_name=cut", *short])
    with pytest.raises(PowerCut):
        runs.train(config, at=(5, cut_power))
    monkeypatch.setattr(data_order, "GROUP", 2)
    monkeypatch.setattr(MelDataset, "shard_rows", lambda data: [1] * len(data), raising=False)
    runs.assert_same_training(whole, runs.train(config, resume=True))


def test_weights_of_items_without_data_sets(root: Path, tmp_path: Path):
    few = ["miniworld.train_scenes=2", "miniworld.valid_scenes=2", "train.accelerator=cpu", f"log_dir='{tmp_path}'"]
    weights = ["dataset=[a,b]", "train.dataset_weights=[1,2]"]
    config = load_config(root / "egs/mini/picture_vae.json", [*few, *weights])
    with pytest.raises(UserError, match="cannot be weighted"):
        runs.train(config)
