"""Scores with their uncertainty, as a json and as a readable page."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sonolume.models.evaluation.protocol import Fingerprint, digest
from sonolume.modules.metrics.interval import bootstrap_mean
from sonolume.utils import files

OUTLIERS = 10  # listed in the report


@dataclass
class Score:
    """One number, in the direction `better` ("up" or "down"), with its 95 % interval where there is one."""

    name: str
    value: float
    better: str = "up"
    low: float | None = None
    high: float | None = None
    count: int = 0
    note: str = ""
    chance: float | None = None

    def __str__(self) -> str:
        value = f"{self.value:.4g}"
        return value if self.low is None or self.high is None else f"{value} ({self.low:.4g} to {self.high:.4g})"


@dataclass
class Result:
    """All scores of one evaluation.

    Attributes:
        conditions: the fingerprint: what must agree before two results are ranked.
        facts: what was judged (model, steps, seed), for the reader.
        counts: clips that were silent, clipped, unreadable, unpaired ...
        outliers: (score, Uid, value) of the worst samples.
        left_out: (file, reason).
    """

    conditions: Fingerprint
    scores: list[Score] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    outliers: list[tuple[str, str, float]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add_mean(
        self, name: str, values: Tensor, uids: Sequence[str], better: str = "up", list_worst: bool = True, **more: Any
    ) -> None:
        """The mean of one value a sample, (N,), with a bootstrap interval; its worst samples become outliers."""
        low, high = bootstrap_mean(values)
        self.scores.append(Score(name, float(values.double().mean()), better, low, high, len(values), **more))
        if not list_worst:
            return
        worst = values.double().argsort(descending=better == "down")[:OUTLIERS].tolist()
        self.outliers += [(name, uids[index], float(values[index])) for index in worst]


def write(result: Result, folder: Path, pictures: Sequence[str] = ()) -> Path:
    """report.json and report.md in `folder`; returns the json.

    Args:
        pictures: file names in `folder` that the page shows.
    """
    content = asdict(result) | {"fingerprint": digest(result.conditions)}
    files.write_json(folder / "report.json", _without_nan(content))
    with files.atomic_path(folder / "report.md") as path:
        path.write_text("\n".join(page(result, pictures)) + "\n", encoding="utf-8")
    return folder / "report.json"


def page(result: Result, pictures: Sequence[str] = ()) -> list[str]:
    """The lines of report.md."""
    facts = [f"{name} {value}" for name, value in result.facts.items() if not isinstance(value, (dict, list))]
    lines = [", ".join(facts) + ".", ""] if facts else []
    lines += ["| score | value (95 %) | better | chance | N | remark |", "|---|---|---|---|---|---|"]
    for score in result.scores:
        chance = "" if score.chance is None else f"{score.chance:.3g}"
        lines.append(f"| {score.name} | {score} | {score.better} | {chance} | {score.count} | {score.note} |")
    lines += ["", f"Fingerprint {digest(result.conditions)}: results with another cannot be ranked with these."]
    if result.counts:
        lines += ["", ", ".join(f"{count} {what}" for what, count in result.counts.items()) + "."]
    if result.left_out:
        lines += ["", "Left out:", *(f"- `{name}`: {reason}" for name, reason in result.left_out[:OUTLIERS])]
        lines += [f"- and {len(result.left_out) - OUTLIERS} more, in report.json"] * (len(result.left_out) > OUTLIERS)
    if result.outliers:
        lines += ["", "Worst samples:", "", "| score | Uid | value |", "|---|---|---|"]
        lines += [f"| {name} | `{uid}` | {value:.4g} |" for name, uid, value in result.outliers]
    return lines + [line for picture in pictures for line in ("", f"![]({picture})")]


def _without_nan(content: Any) -> Any:
    """JSON knows no NaN: null instead."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
