"""One number of a result, with how sure it is and what it can be held against."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Cell = tuple[float, float | None, float | None]  # value and the bounds of its 95 % interval, where there is one


@dataclass
class Score:
    """One number, in the direction `better` ("up" or "down"), with its 95 % interval where there is one.

    Attributes:
        count: samples it was taken over.
        chance: what a model that ignores its input would reach.
        unit: "dB", "nats", ...; "%" of a share, which is 0 to 1 here and printed times 100.
        beside: the same score of something else, by the name of its column: "real", "VAE", "Griffin-Lim".
        headline: goes into the README's table of results.
    """

    name: str
    value: float
    better: str = "up"
    low: float | None = None
    high: float | None = None
    count: int = 0
    note: str = ""
    chance: float | None = None
    unit: str = ""
    beside: Mapping[str, Cell] = field(default_factory=dict)
    headline: bool = False

    def __str__(self) -> str:
        return shown((self.value, self.low, self.high), self.unit)


def shown(cell: Cell, unit: str = "") -> str:
    """A value with its bounds, as a page shows it: "0.31 dB (0.29 to 0.33)"; "-" where there is no value."""
    value, low, high = cell
    if value is None or math.isnan(value):
        return "-"
    text = f"{_number(value, unit)} {unit}".rstrip()
    return text if low is None or high is None else f"{text} ({_number(low, unit)} to {_number(high, unit)})"


def _number(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.4g}"
