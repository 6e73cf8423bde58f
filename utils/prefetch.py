"""Downloads the shards that a training order needs next."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from sonolume.utils.shards import SHARD_ROWS, Shards
from sonolume.utils.storage import LocalStorage

SAMPLES = 512  # positions of the stretch ahead that are looked up


class Prefetch:
    """Looks ahead in an order of training, and downloads the shards found there in the background.

    It looks up every n-th position one stretch ahead, such that a shard of a stretch of 16 is missed once in 10**14
    times; what is missed is downloaded when it is read. In folders of this machine it does nothing.

    Args:
        columns: names of those that are read.
        order: position -> row; its own copy, if it keeps the rows of one window: the position looked up is in the next.
        ahead: length of the stretch, in positions; that of a window of shards.
    """

    def __init__(
        self, shards: Shards, columns: Sequence[str], order: Callable[[int], int], ahead: int = 16 * SHARD_ROWS
    ) -> None:
        self.shards, self.columns, self.order, self.ahead = shards, list(columns), order, ahead
        self.step = max(1, ahead // SAMPLES)
        self.is_local = all(isinstance(part.storage, LocalStorage) for part in shards.parts)
        self._ends = shards.ends.tolist()
        self._next = -1  # position looked up next
        self._asked: dict[int, int] = {}  # shard -> position for which it was asked for

    def at(self, position: int) -> None:
        """Say which position is read now; returns at once."""
        if self.is_local:
            return
        if not position <= self._next <= position + self.ahead + self.step:  # at the start, and after a jump
            self._next = position
        while self._next <= position + self.ahead:
            self._ask(bisect_right(self._ends, self.order(self._next)))
            self._next += self.step

    def _ask(self, shard: int) -> None:
        if abs(self._next - self._asked.get(shard, -2 * self.ahead)) >= self.ahead:
            self._asked[shard] = self._next
            self.shards.prefetch([shard], self.columns)
