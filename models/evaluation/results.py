"""The scores of one evaluation, as a json and as a readable page: one format for every recipe."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from sonolume.models.evaluation.protocol import Fingerprint, digest
from sonolume.models.evaluation.score import Cell, Score, shown
from sonolume.modules.metrics.interval import Share, bootstrap_mean
from sonolume.utils import files

OUTLIERS = 10  # of a score, in the json; as many files that were left out are listed in the page
WORST = 3  # of a score, in the page


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

    def add(self, score: Score) -> None:
        self.scores.append(score)

    def add_mean(
        self,
        name: str,
        values: Tensor,
        uids: Sequence[str],
        better: str = "up",
        list_worst: bool = True,
        beside: Mapping[str, Tensor | Cell] | None = None,
        note: str = "",
        **more: Any,
    ) -> None:
        """The mean of one value a sample, (N,), with a bootstrap interval; its worst samples become outliers.

        A value that is NaN or infinite has no part in the mean, which the remark then says; of none the mean is NaN.

        Args:
            uids: of the N samples.
            beside: the same values of something else, (M,), by the name of its column; or a cell.
            more: unit, chance, headline.
        """
        known = values.isfinite()
        count = int(known.sum())
        notes = [note, f"{len(values) - count} of {len(values)} undefined" if count < len(values) else ""]
        columns = {key: _cell(other) if isinstance(other, Tensor) else other for key, other in (beside or {}).items()}
        said = "; ".join(filter(None, notes))
        mean, low, high = _cell(values)
        self.add(Score(name, mean, better, low, high, count, said, beside=columns, **more))
        if list_worst:
            order = values.double().argsort(descending=better == "down").tolist()
            worst = [index for index in order if known[index]][:OUTLIERS]
            self.outliers += [(name, uids[index], float(values[index])) for index in worst]

    def add_share(
        self,
        name: str,
        share: Share,
        chance: float | None = None,
        beside: Mapping[str, Share] | None = None,
        **more: Any,
    ) -> None:
        """How many of all, with Wilson's interval.

        Args:
            beside: the same share of something else, by the name of its column.
            more: better, note, headline.
        """
        columns = {key: (other.value, other.low, other.high) for key, other in (beside or {}).items()}
        self.add(
            Score(
                name, share.value, low=share.low, high=share.high, count=share.total, chance=chance, unit="%",
                beside=columns, **more,
            )
        )  # fmt: skip


def _cell(values: Tensor) -> Cell:
    """The mean of what is finite, with its interval; one value, or several equal ones, tell nothing of their spread."""
    found = values[values.isfinite()].double()
    if not len(found) or (found == found[0]).all():
        return float(found[0]) if len(found) else math.nan, None, None
    return (float(found.mean()), *bootstrap_mean(found))


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
    lines += _table(result.scores)
    lines += ["", f"Fingerprint {digest(result.conditions)}: results with another cannot be ranked with these."]
    if result.counts:
        lines += ["", ", ".join(f"{count} {what}" for what, count in result.counts.items()) + "."]
    if result.left_out:
        lines += ["", "Left out:", "", *(f"- `{name}`: {reason}" for name, reason in result.left_out[:OUTLIERS])]
        lines += [f"- and {len(result.left_out) - OUTLIERS} more, in report.json"] * (len(result.left_out) > OUTLIERS)
    if result.outliers:
        lines += ["", *_worst(result.outliers)]
    return lines + [line for picture in pictures for line in ("", f"![]({picture})")]


def _table(scores: Sequence[Score]) -> list[str]:
    """One row a score, headlines first; what stands beside any of them gets a column."""
    scores = sorted(scores, key=lambda score: not score.headline)
    columns = list(dict.fromkeys(column for score in scores for column in score.beside))
    header = ["score", "value (95 %)", "chance", *columns, "better", "N", "remark"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for score in scores:
        chance = "" if score.chance is None else shown((score.chance, None, None), score.unit)
        others = [shown(score.beside[name], score.unit) if name in score.beside else "" for name in columns]
        row = [score.name, str(score), chance, *others, score.better, str(score.count), score.note]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _worst(outliers: Sequence[tuple[str, str, float]]) -> list[str]:
    """One row a score, its worst sample first."""
    cells: dict[str, list[str]] = {}
    for name, uid, value in outliers:
        cells.setdefault(name, []).append(f"`{_in_cell(uid)}` {value:.4g}")
    lines = ["Worst samples, more in report.json:", "", "| score | Uid and value |", "|---|---|"]
    return lines + [f"| {name} | {', '.join(some[:WORST])} |" for name, some in cells.items()]


def _in_cell(name: str) -> str:
    """A file name that does not end the cell of a table."""
    return name.replace("|", "\\|")


def _without_nan(content: Any) -> Any:
    """JSON knows no NaN: null instead."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
