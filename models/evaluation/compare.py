"""Compare several reports in one table, ranked only if they were measured under the same conditions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sonolume.models.evaluation.report import differences, format_value
from sonolume.utils.errors import UserError
from sonolume.utils.files import read_json

SCORE_KEYS = {"name", "value", "better", "low", "high"}  # required in a report.json
RENAMED_KEYS = {"beside": "baselines", "fingerprint": "content_hash"}  # of older reports


def read_report(path: Path) -> dict[str, Any]:
    """Read a report.json, or the one in a folder, also of older versions.

    Raises:
        UserError: the file is missing or is not a report.
    """
    file = path / "report.json" if path.is_dir() else path
    content = _rename(read_json(file, "a report of run_eval.sh, or its folder"))
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


def comparison_table(paths: Sequence[Path], ranked: bool = True) -> list[str]:
    """Compose a Markdown table with one column per report; if `ranked`, the best value of each row is bold.

    Scores over different numbers of samples have no best: N is shown.

    Raises:
        UserError: fewer than two reports, or `ranked` and their conditions differ; names the fields.
    """
    if len(paths) < 2:
        raise UserError("name at least two reports to compare")
    reports = [read_report(path) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        if ranked and (found := differences(reports[0]["conditions"], report["conditions"])):
            raise UserError(
                f"{paths[0]} and {path} were measured differently and cannot be ranked: {'; '.join(found)} "
                "(--unranked prints them without ranks)"
            )
    names = dict.fromkeys(score["name"] for report in reports for score in report["scores"])
    header = [f"| {' | '.join(['score', *map(str, paths)])} |", "|---|" + "---|" * len(paths)]
    return header + [_row(name, reports, ranked) for name in names]


def _row(name: str, reports: list[dict[str, Any]], ranked: bool) -> str:
    found = [next((score for score in report["scores"] if score["name"] == name), None) for report in reports]
    known = [score for score in found if score and score["value"] is not None]
    values, counts = {score["value"] for score in known}, {score.get("count") for score in known}
    best = None
    if ranked and len(counts) == 1 and len(values) > 1:
        best = (max if known[0]["better"] == "up" else min)(values)
    cells = []
    for score in found:
        text = "-"
        if score and score["value"] is not None:
            text = format_value((score["value"], score["low"], score["high"]), score.get("unit", ""))
            text += f", N {score.get('count')}" if len(counts) > 1 else ""
            text = f"**{text}**" if score["value"] == best else text
        cells.append(text)
    return f"| {' | '.join([name, *cells])} |"
