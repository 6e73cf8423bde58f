"""Several results in one table; ranked only if they were measured under the same conditions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonolume.models.evaluation.protocol import differences
from sonolume.models.evaluation.score import shown
from sonolume.utils.errors import UserError

NEEDED = {"name", "value", "better", "low", "high"}  # of a score


def read(path: Path) -> dict[str, Any]:
    """A report.json, or the one in a folder.

    Raises:
        UserError: absent, or something else.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such report: name the report.json of run_eval.sh, or its folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a report ({error})") from error
    if not isinstance(content, dict) or not {"conditions", "scores"} <= content.keys():
        raise UserError(f"{file}: not a report of run_eval.sh: it has no scores or no conditions")
    if not isinstance(content["conditions"], dict) or not _are_scores(content["scores"]):
        raise UserError(f"{file}: not as run_eval.sh wrote it: its scores or conditions are of another form")
    return content


def _are_scores(content: Any) -> bool:
    """Each has what a row of the table needs."""
    return isinstance(content, list) and all(isinstance(score, dict) and score.keys() >= NEEDED for score in content)


def table(paths: Sequence[Path], ranked: bool = True) -> list[str]:
    """Markdown lines, one column a report; with `ranked` the best of each row is bold.

    A score over other numbers of samples, such as of those that got another score right, has no best: N is printed.

    Raises:
        UserError: fewer than two reports, or `ranked` and their conditions differ; names the fields.
    """
    if len(paths) < 2:
        raise UserError("name at least two reports to compare")
    reports = [read(path) for path in paths]
    if ranked:
        for path, report in zip(paths[1:], reports[1:], strict=True):
            found = differences(reports[0]["conditions"], report["conditions"])
            if found:
                raise UserError(
                    f"{paths[0]} and {path} were measured differently and cannot be ranked: {'; '.join(found)} "
                    "(--unranked prints them side by side)"
                )
    names = list(dict.fromkeys(score["name"] for report in reports for score in report["scores"]))
    header = ["| score | " + " | ".join(str(path) for path in paths) + " |", "|---|" + "---|" * len(paths)]
    return header + [_row(name, reports, ranked) for name in names]


def _row(name: str, reports: list[dict[str, Any]], ranked: bool) -> str:
    found = [next((score for score in report["scores"] if score["name"] == name), None) for report in reports]
    values = [score["value"] for score in found if score and score["value"] is not None]
    up = next(score["better"] == "up" for score in found if score)
    counts = {score.get("count") for score in found if score and score["value"] is not None}
    comparable = len(counts) == 1 and len(set(values)) > 1  # one value alone beats nothing
    best = (max(values) if up else min(values)) if comparable else None
    cells = []
    for score in found:
        if score is None or score["value"] is None:
            cells.append("-")
            continue
        text = shown((score["value"], score["low"], score["high"]), score.get("unit", ""))
        text += f", N {score.get('count')}" if len(counts) > 1 else ""
        cells.append(f"**{text}**" if ranked and score["value"] == best else text)
    return f"| {name} | " + " | ".join(cells) + " |"
