"""What the shipped parts reach, of every recipe that can be measured, as one table in the README."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonolume.config.load import load_config, recipe_module
from sonolume.models.evaluation import compare
from sonolume.models.evaluation.score import shown
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError

CONFIGS = ("*/*/tiny.json", "mini/*.json")  # in egs
BEGIN, END = "<!-- results -->", "<!-- /results -->"


@dataclass(frozen=True)
class Measurable:
    """A recipe with an evaluation and a shipped part."""

    title: str
    """TASK/RECIPE; of the miniature world's parts, mini/PART"""
    config: Path
    checkpoint: Path

    @property
    def name(self) -> str:
        """Of its folder of results."""
        return self.title.replace("/", "_")


def measurable() -> list[Measurable]:
    """All that can be measured without training or downloading: found by their files, nothing is registered."""
    found = []
    egs = paths.root() / "egs"
    for config in sorted(path for pattern in CONFIGS for path in egs.glob(pattern)):
        settings = load_config(config)
        shipped = _shipped(settings)
        if getattr(recipe_module(settings.recipe, str(config)), "EVALUATION_FLAGS", ()) and shipped:
            mini = settings.recipe.startswith("mini/")
            found.append(Measurable(f"mini/{settings.exp_name}" if mini else settings.recipe, config, shipped))
    return found


def _shipped(settings: Any) -> Path | None:
    """The folder that a recipe's inference falls back to; of a part of the miniature world, the one of its name."""
    if settings.recipe.startswith("mini/"):
        name = f"pretrained/mini/{settings.exp_name}"
    else:
        module = f"sonolume.models.{settings.recipe.replace('/', '.')}.inference"
        if importlib.util.find_spec(module) is None:
            return None
        name = getattr(importlib.import_module(module), "SHIPPED", "")
    folder = paths.root() / name
    return folder if name and folder.is_dir() else None


def table(measured: Sequence[Measurable], folder: Path) -> list[str]:
    """Markdown: the headline scores of the reports in {folder}/{name}."""
    lines = ["| recipe | score | value (95 %) | chance | beside it | N |", "|---|---|---|---|---|---|"]
    for one in measured:
        report = compare.read(folder / one.name)
        lines += [_row(one.title, score) for score in report["scores"] if score["headline"]]
    return lines


def _row(title: str, score: dict[str, Any]) -> str:
    unit = score["unit"]
    chance = "" if score["chance"] is None else shown((score["chance"], None, None), unit)
    beside = ", ".join(f"{name} {shown((cell[0], None, None), unit)}" for name, cell in score["beside"].items())
    value = shown((score["value"], score["low"], score["high"]), unit)
    return f"| `{title}` | {score['name']} | {value} | {chance} | {beside} | {score['count']} |"


def put_into(page: Path, lines: Sequence[str]) -> None:
    """Write lines between the two marks of a page, in place of what is there.

    Raises:
        UserError: the page does not have both marks once.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise UserError(f"{page}: must hold the lines {BEGIN} and {END} once, in this order: the table goes there")
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    with files.atomic_path(page) as path:
        path.write_text("\n".join([before + BEGIN, *lines, after]), encoding="utf-8")
