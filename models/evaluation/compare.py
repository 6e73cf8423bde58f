"""Tables of reports: several ranked under the same conditions, and the headline scores of all shipped parts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sonolume.config.load import load_config, recipe_module
from sonolume.models.evaluation.report import differences, format_value
from sonolume.models.recipes import recipe_code
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.text import code, markdown

SCORE_KEYS = {"name", "value", "better", "low", "high"}  # required in a report.json
CONFIGS = ("*/*/tiny.json", "mini/*.json")  # in egs
BEGIN, END = "<!-- results -->", "<!-- /results -->"
RENAMED_KEYS = {"beside": "baselines", "fingerprint": "content_hash"}  # of older reports


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json, or the one in a folder, also of older versions.

    Raises:
        UserError: the file is missing or is not a report.
    """
    file = path / "report.json" if path.is_dir() else path
    content = _rename(files.read_json(file, "a report of run_eval.sh, or its folder"))
    scores = content.get("scores")
    are_scores = isinstance(scores, list) and all(isinstance(one, dict) and one.keys() >= SCORE_KEYS for one in scores)
    if not isinstance(content.get("conditions"), dict) or not are_scores:
        raise UserError(f"{file}: not a report of run_eval.sh: its scores or conditions are missing or malformed")
    return content


def _rename(content: Any) -> Any:
    """Replace the keys of older reports."""
    if isinstance(content, dict):
        return {RENAMED_KEYS.get(key, key): _rename(value) for key, value in content.items()}
    return [_rename(entry) for entry in content] if isinstance(content, list) else content


@dataclass(frozen=True)
class ScoreRow:
    """One score of several reports."""

    name: str
    scores: list[dict[str, Any] | None]  # one per report; None where it is missing or undefined
    is_ranked: bool  # a difference means something: same conditions and N, and at least two values

    @property
    def best(self) -> float | None:
        """The best of different values, if they can be ranked."""
        values = {score["value"] for score in self.scores if score}
        if not self.is_ranked or len(values) < 2:
            return None
        return (max if next(filter(None, self.scores))["better"] == "up" else min)(values)

    def cells(self) -> list[str]:
        """Format the value of each report with its interval, and with N where that differs; "-" for none."""
        counts = {score.get("count") for score in self.scores if score}
        cells = []
        for score in self.scores:
            cell = (score["value"], score["low"], score["high"]) if score else (math.nan, None, None)
            text = format_value(cell, score.get("unit", "") if score else "")
            cells.append(text + (f", N {score.get('count')}" if score and len(counts) > 1 else ""))
        return cells


def compare_scores(reports: Sequence[Mapping[str, Any]], ranked: bool = True) -> list[ScoreRow]:
    """Put the scores of the same name side by side; over different numbers of samples they have no best."""
    rows = []
    for name in dict.fromkeys(score["name"] for report in reports for score in report["scores"]):
        found = [next((score for score in report["scores"] if score["name"] == name), None) for report in reports]
        found = [score if score and score["value"] is not None else None for score in found]
        counts = [score.get("count") for score in found if score]
        rows.append(ScoreRow(name, found, ranked and len(counts) > 1 and len(set(counts)) == 1))
    return rows


def comparison_table(given: Sequence[Path], ranked: bool = True) -> list[str]:
    """Compose a Markdown table with one column per report; if `ranked`, the best value of each row is bold.

    Scores over different numbers of samples have no best: N is shown.

    Raises:
        UserError: fewer than two reports, or `ranked` and their conditions differ; names the fields.
    """
    if len(given) < 2:
        raise UserError("name at least two reports to compare")
    reports = [read_report(path) for path in given]
    for path, report in zip(given, reports, strict=True):
        if ranked and (found := differences(reports[0]["conditions"], report["conditions"])):
            raise UserError(
                f"{given[0]} and {path} were measured differently and cannot be ranked: {'; '.join(found)} "
                "(--unranked prints them without ranks)"
            )
    lines = [f"| {' | '.join(['score', *(markdown(str(path)) for path in given)])} |", "|---|" + "---|" * len(given)]
    for row in compare_scores(reports, ranked):
        texts = zip(row.scores, map(markdown, row.cells()), strict=True)
        cells = [f"**{text}**" if score and score["value"] == row.best else text for score, text in texts]
        lines.append(f"| {' | '.join([markdown(row.name), *cells])} |")
    return lines


class ShippedPart(NamedTuple):
    """A recipe with an evaluation and a shipped checkpoint."""

    title: str  # TASK/RECIPE, or mini/PART for parts of the miniature world; the folder of its report has _ for /
    config: Path
    checkpoint: Path

    @property
    def name(self) -> str:
        return self.title.replace("/", "_")


def shipped_parts() -> list[ShippedPart]:
    """Find everything that can be evaluated without training or downloading, by files: nothing is registered.

    A checkpoint is the folder that the recipe's inference falls back to; in the miniature world, that of the part.
    """
    found, egs = list[ShippedPart](), paths.root() / "egs"
    for config in sorted(path for pattern in CONFIGS for path in egs.glob(pattern)):
        settings = load_config(config)
        if not hasattr(recipe_module(settings.recipe), "EvaluationOptions"):
            continue
        is_mini = settings.recipe.startswith("mini/")
        title = f"mini/{settings.exp_name}" if is_mini else settings.recipe
        shipped = f"pretrained/{title}" if is_mini else getattr(recipe_code(title, "inference"), "SHIPPED", "")
        if shipped and (paths.root() / shipped).is_dir():
            found.append(ShippedPart(title, config, paths.root() / shipped))
    return found


def results_table(parts: Sequence[ShippedPart], folder: Path) -> list[str]:
    """Compose a Markdown table of the headline scores of the reports in {folder}/{name}."""
    lines = ["| recipe | score | value (95 %) | chance | baselines | N |", "|---|---|---|---|---|---|"]
    for part in parts:
        scored = [one for one in read_report(folder / part.name)["scores"] if one["headline"] and one["count"]]
        for score in scored:
            unit, baselines = score["unit"], score["baselines"].items()
            chance = "" if score["chance"] is None else format_value((score["chance"], None, None), unit)
            others = ", ".join(f"{column} {format_value((cell[0], None, None), unit)}" for column, cell in baselines)
            value = format_value((score["value"], score["low"], score["high"]), unit)
            cells = [code(part.title), *map(markdown, (score["name"], value, chance, others)), str(score["count"])]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def insert_lines(page: Path, lines: Sequence[str]) -> None:
    """Replace the lines between the two markers of a page; raises a UserError unless it has both once."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise UserError(f"{page}: must have the lines {BEGIN} and {END} once, in this order: the table goes between")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    with files.atomic_path(page) as path:
        path.write_text("\n".join([before + BEGIN, *lines, after]), encoding="utf-8")
