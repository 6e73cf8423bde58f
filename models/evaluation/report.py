"""Scores of an evaluation, the conditions they were measured under, and the report written from them."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from sonolume.modules.metrics.interval import Share, bootstrap_mean
from sonolume.utils import files
from sonolume.utils.cache import content_hash
from sonolume.utils.text import code, markdown, printable

FORMULAS = 1  # increase it when the formula of a metric changes
PACKAGES = ("sonolume", "torch", "torchmetrics", "diffusers", "transformers")  # versions that affect the scores
MAX_OUTLIERS = 10  # outliers of a score in report.json, and files left out in report.md
SHOWN_OUTLIERS = 3  # outliers of a score in report.md

ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")  # of a character that means something in Markdown
CELL_END = re.compile(r"(?<!\\)\|")
GAUSSIANS = (
    "squared distance of two Gaussians fitted to the embeddings, 0 for equal ones; it has no upper bound, its scale "
    "depends on the embedder, and it grows as N shrinks"
)
SCALES = {  # first word of scores whose values mean nothing by themselves
    "FAD": GAUSSIANS,
    "FID": GAUSSIANS,
    "KID": "squared difference of the embeddings' means in a polynomial kernel, 0 (or slightly below) for equal "
    "distributions; it has no upper bound, and its scale depends on the embedder",
}

Conditions = dict[str, Any]
Cell = tuple[float, float | None, float | None]  # value and bounds of its 95 % interval, if there is one


def measurement_conditions(
    embedders: Iterable[str | Mapping[str, Any]], reference: Iterable[str], generated: int, **more: Any
) -> Conditions:
    """Collect everything that must agree between two reports before one can be called better.

    Args:
        embedders: `Embedder.facts()` of each, or a name with its version.
        reference: the Uids (or captions) that were asked for, in any order.
        generated: number of samples that were scored.
        more: seed, sample_rate in Hz and window in seconds of the samples, and what else affects the scores.
    """
    asked = sorted(reference)
    return {
        "formulas": FORMULAS,
        "embedders": sorted(embedders, key=lambda facts: json.dumps(facts, sort_keys=True)),
        "reference": len(asked),
        "reference_hash": content_hash(asked),
        "generated": generated,
        "resampler": f"soxr {version('soxr')} HQ",
        "versions": {name: version(name) for name in PACKAGES},
        **{"seed": None, "sample_rate": None, "window": None},
        **more,
    }


def differences(first: Conditions, second: Conditions) -> list[str]:
    """List the fields in which two conditions differ, with both values; empty if the reports may be ranked."""
    pairs = [(name, first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())]
    return [f"{name} {_entries(a, b)} / {_entries(b, a)}" for name, a, b in pairs if a != b]


def _entries(content: Any, other: Any) -> str:
    """Write a value without the entries of lists and objects that another one has too; "none" if nothing is left."""
    if isinstance(content, dict):
        known = other if isinstance(other, dict) else {}
        found = [f"{key} {_entries(value, known.get(key))}" for key, value in content.items()
                 if key not in known or known[key] != value]  # fmt: skip
    elif isinstance(content, list):
        found = [_entries(entry, None) for entry in content if not isinstance(other, list) or entry not in other]
    else:
        found = [] if content is None else [str(content)]
    return ", ".join(found) or "none"


@dataclass
class Score:
    """A number with its 95 % interval, if there is one, and the numbers to compare it with."""

    name: str
    value: float
    better: str = "up"  # or "down"
    low: float | None = None
    high: float | None = None
    count: int = 0  # number of samples
    note: str = ""
    chance: float | None = None  # the score of a model that ignores its input
    unit: str = ""  # "dB", "nats" ...; "%" for a share, which is 0 to 1 here and printed times 100
    baselines: Mapping[str, Cell] = field(default_factory=dict)  # of other samples, such as real ones, by column
    headline: bool = False  # included in the README's table of results


def format_value(cell: Cell, unit: str = "") -> str:
    """Format a value with its bounds, such as "0.31 dB (0.29 to 0.33)"; "-" for NaN."""
    if cell[0] is None or math.isnan(cell[0]):
        return "-"
    scale, digits = (100, ".1f") if unit == "%" else (1, ".4g")
    value, low, high = ("" if number is None else f"{scale * number:{digits}}" for number in cell)
    return f"{value} {unit}".rstrip() + (f" ({low} to {high})" if low and high else "")


@dataclass
class Report:
    """All scores of one evaluation."""

    conditions: Conditions  # what must agree before two reports are ranked
    scores: list[Score] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # what was scored (model, steps, seed), for the reader
    counts: dict[str, int] = field(default_factory=dict)  # clips that were silent, clipped, unreadable, unpaired ...
    outliers: list[tuple[str, str, float]] = field(default_factory=list)  # (score, Uid, value) of the worst samples
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)

    def add_mean(
        self, name: str, values: Tensor, uids: Sequence[str], better: str = "up", list_worst: bool = True,
        baselines: Mapping[str, Tensor] | None = None, note: str = "", **more: Any,
    ) -> None:  # fmt: skip
        """Add the mean of one value per sample, (N,), with a bootstrap interval; the worst samples become outliers.

        Values that are not finite are excluded and counted in the note; the mean of no values is NaN. `baselines` are
        the values (M,) of other samples, by column; `more` is unit, chance, headline.
        """
        finite = values.isfinite()
        count = int(finite.sum())
        undefined = f"{len(values) - count} of {len(values)} undefined" if count < len(values) else ""
        note = "; ".join(filter(None, (note, undefined)))
        columns = {column: _mean_cell(other) for column, other in (baselines or {}).items()}
        mean, low, high = _mean_cell(values)
        self.scores.append(Score(name, mean, better, low, high, count, note, baselines=columns, **more))
        if list_worst:
            order = values.double().argsort(descending=better == "down").tolist()
            worst = [index for index in order if finite[index]][:MAX_OUTLIERS]
            self.outliers += [(name, uids[index], float(values[index])) for index in worst]

    def add_share(
        self, name: str, share: Share, chance: float | None = None, baselines: Mapping[str, Share] | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        """Add a proportion with Wilson's interval, and the same of other samples by column; `more` as in `Score`."""
        columns = {column: other.cell for column, other in (baselines or {}).items()}
        value, low, high = share.cell
        bounds = {"low": low, "high": high, "count": share.total}
        self.scores.append(Score(name, value, chance=chance, unit="%", baselines=columns, **bounds, **more))

    def add_baselines(self, other: "Report", column: str) -> None:
        """Put the scores of another report into a column, next to the scores of the same name."""
        values = {score.name: (score.value, score.low, score.high) for score in other.scores}
        for score in (score for score in self.scores if score.name in values):
            score.baselines = {**score.baselines, column: values[score.name]}

    def add_chance(self, other: "Report") -> None:
        """Take the chance level of scores with outliers from a report on samples of other inputs."""
        per_sample = {name for name, _, _ in other.outliers}
        values = {score.name: score.value for score in other.scores if score.name in per_sample}
        for score in (score for score in self.scores if score.chance is None):
            score.chance = values.get(score.name)

    def leave_out(self, entries: Iterable[tuple[str, str]]) -> None:
        """List (file, reason), each once."""
        self.left_out = list(dict.fromkeys([*self.left_out, *entries]))


def _mean_cell(values: Tensor) -> Cell:
    """Mean of the finite values with its interval; one value, or several equal ones, have none."""
    found = values[values.isfinite()].double()
    if not len(found) or (found == found[0]).all():
        return float(found[0]) if len(found) else math.nan, None, None
    return (float(found.mean()), *bootstrap_mean(found))


def finish(report: Report, folder: Path, figures: Sequence[str] = ()) -> Path:
    """Write report.json and report.md, which shows pictures of `folder`; print it, and return the json's path.

    The terminal gets the page with aligned tables and without pictures.
    """
    content = json.dumps(asdict(report) | {"content_hash": content_hash(report.conditions)})
    nan_to_null = json.loads(content, parse_constant=lambda _: None)  # JSON has neither NaN nor infinity
    files.write_json(folder / "report.json", nan_to_null)
    lines = page(report, figures)
    with files.atomic_path(folder / "report.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*align_tables(lines), printable(str(folder / "report.json")), sep="\n")
    return folder / "report.json"


def align_tables(lines: Iterable[str]) -> list[str]:
    """Turn the Markdown of a page into text for a terminal: tables with aligned columns, no escapes and no pictures."""
    shown = []
    for is_table, group in itertools.groupby(lines, key=lambda line: line.startswith("|")):
        if not is_table:
            shown += [ESCAPE.sub(r"\1", line) for line in group if not line.startswith("![")]
            continue
        rows = [[ESCAPE.sub(r"\1", cell.strip()) for cell in CELL_END.split(line)[1:-1]] for line in group]
        del rows[1]
        widths = [max(map(len, column)) if any(column[1:]) else 0 for column in zip(*rows, strict=True)]
        rows.insert(1, ["-" * width for width in widths])
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
            shown.append("  ".join(cells).rstrip())
    return shown


def score_table(scores: Sequence[Score]) -> list[list[str]]:
    """Compose a header and a row per score, headlines first, with a column per baseline; plain text."""
    columns = list(dict.fromkeys(column for score in scores for column in score.baselines))
    rows = [["score", "value (95 %)", "chance", *columns, "better", "N", "note"]]
    for score in sorted(scores, key=lambda score: not score.headline):
        value = format_value((score.value, score.low, score.high), score.unit)
        chance = "" if score.chance is None else format_value((score.chance, None, None), score.unit)
        others = [format_value(score.baselines[c], score.unit) if c in score.baselines else "" for c in columns]
        rows.append([score.name, value, chance, *others, score.better, str(score.count), score.note])
    return rows


def page(report: Report, figures: Sequence[str] = ()) -> list[str]:
    """Compose the lines of report.md: a row per score, headlines first, with a column per baseline."""
    facts = [f"{name} {value}" for name, value in report.facts.items() if not isinstance(value, (dict, list))]
    lines = [markdown(", ".join(facts) + "."), ""] if facts else []
    header, *rows = score_table(report.scores)
    lines += [f"| {' | '.join(map(markdown, header))} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(map(markdown, row))} |" for row in rows]
    lines += ["", f"Conditions {content_hash(report.conditions)}: only reports with the same conditions can be ranked."]
    if any(score.baselines for score in report.scores):
        lines += ["", "The columns after chance are baselines and upper bounds: the same score of other samples."]
    names = [name for name in SCALES if any(score.name.startswith(f"{name} ") for score in report.scores)]
    lines += [line for name in names for line in ("", f"{name}: {SCALES[name]}.")]
    if report.counts:
        lines += ["", markdown(", ".join(f"{count} {what}" for what, count in report.counts.items()) + ".")]
    if report.left_out:
        further = len(report.left_out) - MAX_OUTLIERS
        shown = [f"- {code(name)}: {markdown(reason)}" for name, reason in report.left_out[:MAX_OUTLIERS]]
        lines += ["", "Left out:", "", *shown]
        lines += [f"- and {further} more, in report.json"] if further > 0 else []
    if report.outliers:
        lines += ["", "Worst samples, more in report.json:", "", "| score | Uid and value |", "|---|---|"]
        for name in dict.fromkeys(name for name, _, _ in report.outliers):
            worst = [(uid, value) for one, uid, value in report.outliers if one == name]
            cells = [f"{code(uid)} {value:.4g}" for uid, value in worst[:SHOWN_OUTLIERS]]
            lines.append(f"| {markdown(name)} | {', '.join(cells)} |")
    return lines + [line for figure in figures for line in ("", f"![]({figure})")]
