"""Scores of the shipped parts of all recipes, as one table in the README."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolume.config.load import load_config, recipe_module
from sonolume.models.evaluation.compare import read_report
from sonolume.models.evaluation.report import format_value
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError

CONFIGS = ("*/*/tiny.json", "mini/*.json")  # in egs
BEGIN, END = "<!-- results -->", "<!-- /results -->"


@dataclass(frozen=True)
class ShippedPart:
    """A recipe with an evaluation and a shipped checkpoint."""

    title: str
    """TASK/RECIPE, or mini/PART for parts of the miniature world"""
    config: Path
    checkpoint: Path

    @property
    def name(self) -> str:
        """Name of its folder of results."""
        return self.title.replace("/", "_")


def shipped_parts() -> list[ShippedPart]:
    """Find everything that can be evaluated without training or downloading, by files: nothing is registered."""
    found = []
    egs = paths.root() / "egs"
    for config in sorted(path for pattern in CONFIGS for path in egs.glob(pattern)):
        settings = load_config(config)
        shipped = _shipped_folder(settings)
        if hasattr(recipe_module(settings.recipe, str(config)), "EvaluationOptions") and shipped:
            title = f"mini/{settings.exp_name}" if settings.recipe.startswith("mini/") else settings.recipe
            found.append(ShippedPart(title, config, shipped))
    return found


def _shipped_folder(settings: Any) -> Path | None:
    """Return the folder that a recipe's inference falls back to; for the miniature world, the folder of the part."""
    if settings.recipe.startswith("mini/"):
        name = f"pretrained/mini/{settings.exp_name}"
    else:
        module = f"sonolume.models.{settings.recipe.replace('/', '.')}.inference"
        if importlib.util.find_spec(module) is None:
            return None
        name = getattr(importlib.import_module(module), "SHIPPED", "")
    folder = paths.root() / name
    return folder if name and folder.is_dir() else None


def results_table(parts: Sequence[ShippedPart], folder: Path) -> list[str]:
    """Compose a Markdown table of the headline scores of the reports in {folder}/{name}."""
    lines = ["| recipe | score | value (95 %) | chance | baselines | N |", "|---|---|---|---|---|---|"]
    for part in parts:
        report = read_report(folder / part.name)
        lines += [_row(part.title, score) for score in report["scores"] if score["headline"]]
    return lines


def _row(title: str, score: dict[str, Any]) -> str:
    unit, baselines = score["unit"], score["baselines"].items()
    chance = "" if score["chance"] is None else format_value((score["chance"], None, None), unit)
    others = ", ".join(f"{column} {format_value((cell[0], None, None), unit)}" for column, cell in baselines)
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
