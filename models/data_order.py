"""Which item is trained on at which position: any position at once, without iterating over those before it.

A run trains on the positions 0, 1, 2 ...; an order maps each to (epoch, row), from the seed alone. It therefore depends
on neither the number of processes nor that of workers, and a resumed run needs its position only.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sonolume.utils.errors import UserError

GROUP = 16  # shards of one window
UNITS = 2**32  # weights are multiples of 1 / UNITS
OTHER_RUN = "or start a new run with another exp_name=..."


class Order(Protocol):
    """Maps the positions of a run to items."""

    rows: int  # items of one epoch

    def item(self, position: int) -> tuple[int, int]:
        """Return (epoch, row) of a position."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return the plain values that decide the order besides the seed, for the checkpoint."""
        ...


class EpochOrder:
    """All rows in a new random order in each epoch: the order of everything that is not split into many shards.

    It keeps the permutation of one epoch, 8 bytes a row. Checkpoints contain no settings of it, as those of all
    runs that began when it was the only order.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def item(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.rows)
        if self._epoch != epoch:
            import torch  # whose permutations the first runs were trained with; the other orders do without

            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self.rows, generator=generator).numpy()
        return epoch, int(self._permutation[offset])

    def settings(self) -> dict[str, Any]:
        return {}


class BlockOrder:
    """Rows of many shards in a random order that reads few shards at a time.

    In each epoch the shards are shuffled and cut into windows of `group` shards; a window's rows are permuted. Training
    reads one window after the other, so that all processes share the same few files. It keeps the row numbers of one
    window and three numbers a shard.

    With at most one window, `single_order` takes `EpochOrder` instead.

    Args:
        shard_rows: number of rows of each shard, (S,); they may differ, and be 0.
    """

    def __init__(self, shard_rows: Sequence[int] | np.ndarray, seed: int, group: int = GROUP) -> None:
        self.shard_rows, self.seed, self.group = np.asarray(shard_rows, np.int64), seed, group
        ends = np.cumsum(self.shard_rows)
        self.rows, self._firsts = int(ends[-1]), ends - self.shard_rows  # (S,) first row of each shard
        self._epoch, self._shards, self._ends = -1, ends, ends
        self._positions, self._window = range(0), ends  # of the current window, and its rows

    def item(self, position: int) -> tuple[int, int]:
        if position not in self._positions:
            self._read(position)
        return self._epoch, int(self._window[position - self._positions.start])

    def _read(self, position: int) -> None:
        """Permute the rows of the window of a position."""
        epoch, offset = divmod(position, self.rows)
        if self._epoch != epoch:
            self._shuffle(epoch)
        window = int(np.searchsorted(self._ends, offset, side="right"))
        shards = self._shards[window * self.group : (window + 1) * self.group]
        bounds = zip(self._firsts[shards].tolist(), self.shard_rows[shards].tolist(), strict=True)
        rows = np.concatenate([np.arange(first, first + count) for first, count in bounds])
        self._window = np.random.default_rng([self.seed, epoch, window]).permutation(rows)
        end = epoch * self.rows + int(self._ends[window])
        self._positions = range(end - len(rows), end)

    def _shuffle(self, epoch: int) -> None:
        """Shuffle the shards for an epoch and find the ends of its windows."""
        # four numbers: numpy fills up shorter seeds with zeros, and those of windows have three
        random = np.random.default_rng([self.seed, epoch, 0, 1])
        self._epoch, self._shards = epoch, random.permutation(len(self.shard_rows))
        last = np.append(np.arange(self.group, len(self._shards), self.group), len(self._shards)) - 1
        self._ends = np.cumsum(self.shard_rows[self._shards])[last]  # (windows,)

    def settings(self) -> dict[str, Any]:
        sizes = hashlib.sha256(self.shard_rows.astype("<i8").tobytes()).hexdigest()[:16]
        return {"group": self.group, "shards": len(self.shard_rows), "rows": self.rows, "sizes": sizes}


class MixedOrder:
    """Several data sets by weight, each in its own order and with its own epochs.

    A position belongs to the data set that a binary tree leads to. A node whose left half has the share w of its weight
    gives round(n w) of its first n positions to that half, as Bresenham's line does. Hence among the first n positions
    of a run, the number of each data set's differs from n times its weight by less than half the depth of the tree: by
    less than 1 for up to four data sets, and 2 for up to 16. All is computed in integers, and thus exact at any
    position; the weights are rounded to multiples of 2**-32.

    Items are (epoch of the data set, number of all rows before the data set + row in it).
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float]) -> None:
        self.orders, self.weights = list(orders), _units(weights)
        self._ends = [0, *itertools.accumulate(self.weights)]
        self._firsts = [0, *itertools.accumulate(order.rows for order in orders)]
        self.rows = self._firsts[-1]

    def place(self, position: int) -> tuple[int, int]:
        """Return the number of the data set at a position, and the position in its own order."""
        first, last = 0, len(self.orders)
        while last - first > 1:
            middle = (first + last) // 2
            total, left = self._ends[last] - self._ends[first], self._ends[middle] - self._ends[first]
            before, after = ((2 * count * left + total) // (2 * total) for count in (position, position + 1))
            if after > before:
                last, position = middle, before
            else:
                first, position = middle, position - before
        return first, position

    def item(self, position: int) -> tuple[int, int]:
        number, inside = self.place(position)
        epoch, row = self.orders[number].item(inside)
        return epoch, self._firsts[number] + row

    def settings(self) -> dict[str, Any]:
        rows, orders = [order.rows for order in self.orders], [order.settings() for order in self.orders]
        return {"weights": self.weights, "rows": rows, "orders": orders}


def _units(weights: Sequence[float]) -> list[int]:
    """Shares of `weights` in units of 2**-32, each at least one; the largest makes their sum exact."""
    units = [max(1, round(weight / sum(weights) * UNITS)) for weight in weights]
    units[units.index(max(units))] += UNITS - sum(units)
    return units


def single_order(shard_rows: Sequence[int] | np.ndarray, seed: int, group: int = GROUP) -> Order:
    """Build the order of one data set: `BlockOrder`, but `EpochOrder` if one window contains all shards."""
    if len(shard_rows) <= group:
        return EpochOrder(int(np.sum(shard_rows)), seed)
    return BlockOrder(shard_rows, seed, group)


def make_order(
    shards: Sequence[Sequence[int] | np.ndarray],
    weights: Sequence[float],
    seed: int,
    saved: Mapping[str, Any] | None = None,
) -> Order:
    """Build the order of a run.

    Args:
        shards: for each data set the number of rows of each of its shards; one shard for a data set without shards.
        weights: relative share of each data set, or [] to concatenate them.
        saved: the settings in the checkpoint of a resumed run, {} if it has none; None for a new run.

    Raises:
        UserError: there is nothing to train on, or a resumed run would continue in another order than its own.
    """
    sizes = [int(np.sum(one)) for one in shards]
    if not all(sizes) if weights else not sum(sizes):
        raise UserError(f"no training items in data set {sizes.index(0) + 1} of {len(sizes)}: prepare it, or leave it "
                        "out of dataset")  # fmt: skip
    is_mixed = len(weights) > 1
    if saved is not None and not saved and not is_mixed:
        return EpochOrder(sum(sizes), seed)  # however many shards there are: the run began with it
    groups = [one.get("group", GROUP) for one in (saved or {}).get("orders", [saved or {}])]
    if is_mixed:
        groups = groups if len(groups) == len(shards) else [GROUP] * len(shards)
        # other seeds, so that two versions of the same rows do not come at the same time
        given = zip(shards, itertools.count(seed), groups, strict=False)
        order: Order = MixedOrder([single_order(*one) for one in given], weights)
    else:
        order = single_order(np.concatenate(shards), seed, groups[0])
    if saved is not None and (now := order.settings()) != saved:
        raise UserError(_difference(saved, now))
    return order


def _difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe why a run cannot be resumed."""
    before, after = ([f"{unit / UNITS:.4g}" for unit in one.get("weights", [])] for one in (saved, now))
    if saved.get("weights") != now.get("weights"):
        shares = ", ".join(before) or "none"
        return f"train.dataset_weights: the run began with the shares {shares}, not {', '.join(after) or 'none'}: " \
               f"set them as they were, {OTHER_RUN}"  # fmt: skip
    return f"the run began with {_size(saved)}, not {_size(now)}: restore the training data, {OTHER_RUN}"


def _size(settings: Mapping[str, Any]) -> str:
    """Describe the data of an order, such as "1,000 rows in 20 shards (sizes 5f70bf18)"."""
    if "orders" in settings:
        pairs = zip(settings["rows"], settings["orders"], strict=True)
        return " + ".join(_size({"rows": rows} | one) for rows, one in pairs)
    shards = f" in {settings['shards']:,} shards (sizes {settings['sizes'][:8]})" if "shards" in settings else ""
    return f"{settings['rows']:,} rows{shards}" if "rows" in settings else "at most one window of shards"


def count_rows(data: Any, datasets: Sequence[str], weighted: bool) -> list[np.ndarray]:
    """Count the rows of each shard of the training data, for each data set if they are `weighted`, else of all.

    Args:
        data: a data set of torch; it may have the methods of `TrainingData.train`.
        datasets: their names, in the order of the rows.

    Raises:
        UserError: the items cannot be weighted, because they do not tell their data set, or one has none.
    """
    sizes = np.array(_dataset_sizes(data, datasets) if weighted else [len(data)], np.int64)
    if not hasattr(data, "shard_rows"):
        return list(sizes[:, None])
    shards = np.asarray(data.shard_rows(), np.int64)
    ends, stops = np.cumsum(shards), np.cumsum(sizes)
    if not len(shards) or ends[-1] != stops[-1] or not np.isin(stops, ends).all():
        raise ValueError(f"shards of {shards.sum()} rows do not make up data sets of {sizes.tolist()}")
    return np.split(shards, np.searchsorted(ends, stops[:-1], side="right"))


def _dataset_sizes(data: Any, datasets: Sequence[str]) -> list[int]:
    """Number of items of each data set, from `dataset_sizes()` or from the manifest rows."""
    if hasattr(data, "dataset_sizes"):
        return list(data.dataset_sizes())
    names: list[Any] = [getattr(row, "dataset", None) for row in getattr(data, "rows", ())]
    if not names or len(names) != len(data) or None in names:
        raise UserError("train.dataset_weights: this recipe's items cannot be weighted by data set: leave it out")
    counts = [(name, sum(1 for _ in some)) for name, some in itertools.groupby(names)]
    found = [name for name, _ in counts]
    if found != list(datasets):
        raise UserError(f"train.dataset_weights: dataset is {', '.join(datasets)}, but the training items are of "
                        f"{', '.join(found)}: name each data set once, and leave out those without any")  # fmt: skip
    return [count for _, count in counts]
