"""Scores of the shipped parts of all recipes, as one table in the README."""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sonolume.config.load import load_config, recipe_module
from sonolume.models.evaluation.compare import read_report
from sonolume.models.evaluation.report import format_value
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError

CONFIGS = ("*/*/tiny.json", "mini/*.json")  # in egs
BEGIN, END = "<!-- results -->", "<!-- /results -->"


class ShippedPart(NamedTuple):
    """A recipe with an evaluation and a shipped checkpoint."""

    title: str
    """TASK/RECIPE, or mini/PART for parts of the miniature world; the folder of its report has _ for /"""
    config: Path
    checkpoint: Path

    @property
    def name(self) -> str:
        return self.title.replace("/", "_")


def shipped_parts() -> list[ShippedPart]:
    """Find everything that can be evaluated without training or downloading, by files: nothing is registered.

    A checkpoint is the folder that the recipe's inference falls back to; in the miniature world, that of the part.
    """
    found = []
    egs = paths.root() / "egs"
    for config in sorted(path for pattern in CONFIGS for path in egs.glob(pattern)):
        settings = load_config(config)
        is_mini = settings.recipe.startswith("mini/")
        title = f"mini/{settings.exp_name}" if is_mini else settings.recipe
        shipped = f"pretrained/{title}" if is_mini else ""
        inference = f"sonolume.models.{settings.recipe.replace('/', '.')}.inference"
        if not is_mini and importlib.util.find_spec(inference):
            shipped = getattr(importlib.import_module(inference), "SHIPPED", "")
        can_evaluate = hasattr(recipe_module(settings.recipe, str(config)), "EvaluationOptions")
        if can_evaluate and shipped and (paths.root() / shipped).is_dir():
            found.append(ShippedPart(title, config, paths.root() / shipped))
    return found


def results_table(parts: Sequence[ShippedPart], folder: Path) -> list[str]:
    """Compose a Markdown table of the headline scores of the reports in {folder}/{name}."""
    lines = ["| recipe | score | value (95 %) | chance | baselines | N |", "|---|---|---|---|---|---|"]
    for part in parts:
        report = read_report(folder / part.name)
        lines += [_row(part.title, score) for score in report["scores"] if score["headline"]]
    return lines


def _row(title: str, score: dict[str, Any]) -> str:
    unit = score["unit"]
    chance = "" if score["chance"] is None else format_value((score["chance"], None, None), unit)
    baselines = {column: format_value((cell[0], None, None), unit) for column, cell in score["baselines"].items()}
    others = ", ".join(f"{column} {text}" for column, text in baselines.items())
    value = format_value((score["value"], score["low"], score["high"]), unit)
    return f"| `{title}` | {score['name']} | {value} | {chance} | {others} | {score['count']} |"


def insert_lines(page: Path, lines: Sequence[str]) -> None:
    """Replace the lines between the two markers of a page.

    Raises:
        UserError: the page does not have both markers once.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise UserError(f"{page}: must have the lines {BEGIN} and {END} once, in this order: the table goes between")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    with files.atomic_path(page) as path:
        path.write_text("\n".join([before + BEGIN, *lines, after]), encoding="utf-8")
