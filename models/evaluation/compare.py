"""Tables of reports: several ranked under the same conditions, and the headline scores of all shipped parts."""

from collections.abc import Sequence
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
    for name in dict.fromkeys(score["name"] for report in reports for score in report["scores"]):
        found = [next((score for score in report["scores"] if score["name"] == name), None) for report in reports]
        known = [score for score in found if score and score["value"] is not None]
        values, counts = {score["value"] for score in known}, {score.get("count") for score in known}
        best = None
        if ranked and len(counts) == 1 and len(values) > 1:
            best = (max if known[0]["better"] == "up" else min)(values)
        cells = [markdown(name)]
        for score in found:
            text = "-"
            if score and score["value"] is not None:
                text = format_value((score["value"], score["low"], score["high"]), score.get("unit", ""))
                text = markdown(text + (f", N {score.get('count')}" if len(counts) > 1 else ""))
                text = f"**{text}**" if score["value"] == best else text
            cells.append(text)
        lines.append(f"| {' | '.join(cells)} |")
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
