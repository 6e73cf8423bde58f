"""Reports of evaluations for the viewer: found by name below one folder, read, compared, and their samples.

Only files inside the folder of a report are read, and none through a link, whatever a report or a client names. All
text is `printable`.
"""

import filecmp
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from PIL import Image

from sonolume.models.evaluation.compare import compare_scores, read_report
from sonolume.models.evaluation.report import SCALES, Score, differences, format_value, score_table
from sonolume.utils import audio, files
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from sonolume.utils.text import printable

REPORT_FILE = "report.json"
MAX_DEPTH = 3  # levels of folders below the root in which reports are found
MAX_SECONDS = 60.0  # of a sound that is played
MAX_LISTED = 1000  # samples of a report
FIRST_COLUMNS = ("generated", "round_trip", "reference", "real", "sounds", "pictures")  # then the others by name
SOUND_SUFFIXES = files.AUDIO_SUFFIXES - files.PYAV_SUFFIXES
MEDIA_SUFFIXES = sorted(SOUND_SUFFIXES | files.PICTURE_SUFFIXES)
ALL = ""  # the list of all samples, next to the worst of each score

Table = list[list[str]]  # a header and rows


@dataclass(frozen=True)
class StoredReport:
    """A report that was read: wrong types in the file are missing values here."""

    name: str
    folder: Path  # absolute, without links
    conditions: dict[str, Any]
    scores: list[dict[str, Any]]  # fields of `Score`; a missing value is None
    outliers: list[tuple[str, str, float]]  # (score, Uid, value)
    facts: dict[str, Any]
    counts: dict[str, Any]

    @property
    def table(self) -> Table:
        """Scores with intervals, baselines, N and notes."""
        return score_table([Score(**score) for score in self.scores])

    @property
    def summary(self) -> str:
        """One line of what was measured, and of the counts that are not 0."""
        facts = [f"{name} {_text(value)}" for name, value in self.facts.items() if not isinstance(value, dict | list)]
        counts = [f"{value} {name}" for name, value in self.counts.items() if value]
        return printable("; ".join(", ".join(part) for part in (facts, counts) if part)) + "."

    @property
    def notes(self) -> list[str]:
        """Explain the scores whose values mean nothing by themselves."""
        names = [name for name in SCALES if any(score["name"].startswith(f"{name} ") for score in self.scores)]
        return [f"{name}: {SCALES[name]}." for name in names]


def find_reports(root: Path) -> dict[str, Path]:
    """Find the folders with a report below a folder, or this folder itself, by their names."""
    root, found = root.resolve(), dict[str, Path]()
    for place, subfolders, names in os.walk(root):
        folder = Path(place)
        inside = folder.relative_to(root)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")] * (len(inside.parts) < MAX_DEPTH)
        if REPORT_FILE in names and _is_inside(folder, folder / REPORT_FILE):
            found[printable(inside.as_posix() if inside.parts else root.name)] = folder
            subfolders.clear()
    return dict(sorted(found.items()))


def read(root: Path, name: object) -> StoredReport:
    """Read the report of a name that `find_reports` lists; a UserError for any other value, or a damaged file."""
    folder = find_reports(root).get(name) if isinstance(name, str) else None
    if folder is None:
        raise UserError("no report of this name: choose one of the list")
    try:
        content = read_report(folder)
    except UserError as error:
        raise UserError(printable(str(error).replace(f"{folder}{os.sep}", f"{name}/"))) from error
    outliers = [(printable(score), printable(uid), value) for score, uid, value in _triples(content.get("outliers"))]
    scores = [_score(entry) for entry in content["scores"]]
    facts, counts = (_object(content.get(key)) for key in ("facts", "counts"))
    return StoredReport(str(name), folder, content["conditions"], scores, outliers, facts, counts)


def _is_inside(folder: Path, path: Path) -> bool:
    """Test for a file that belongs to a folder without links; a link in its path, or .., leads elsewhere."""
    return os.path.isfile(path) and path.resolve() == path and path.is_relative_to(folder)


def _object(value: object) -> dict[str, Any]:
    return {printable(key): one for key, one in value.items()} if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None  # type: ignore[arg-type]


def _triples(entries: object) -> Iterator[tuple[str, str, float]]:
    for entry in entries if isinstance(entries, list) else []:
        match entry:
            case [str(score), str(uid), int() | float()] if (value := _number(entry[2])) is not None:
                yield score, uid, value


def _score(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the fields of a score that have the right types."""
    numbers = {key: _number(entry.get(key)) for key in ("value", "low", "high", "chance")}
    texts = {key: _text(entry.get(key) or "") for key in ("name", "better", "note", "unit")}
    baselines = {column: _cell(cell) for column, cell in _object(entry.get("baselines")).items()}
    count, headline = int(_number(entry.get("count")) or 0), entry.get("headline") is True
    return {**numbers, **texts, "baselines": baselines, "count": count, "headline": headline}


def _cell(cell: object) -> tuple[float, float | None, float | None]:
    value, low, high = [*map(_number, cell if isinstance(cell, list) else []), None, None, None][:3]
    return (math.nan if value is None else value, low, high)


def _text(value: object) -> str:
    """Write a fact or condition in one line."""
    if isinstance(value, dict | list):
        return printable(json.dumps(_shortened(value), ensure_ascii=False).replace('"', ""))
    return printable(str(_shortened(value)))


def _shortened(value: Any) -> Any:
    """Reduce absolute paths, which are no business of those who look at the page, to their last names."""
    if isinstance(value, dict):
        return {str(key): _shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def conditions_table(report: StoredReport, other: StoredReport | None = None) -> Table:
    """Compose the conditions of one report, or of two with a mark where they differ."""
    if other is None:
        return [["condition", "value"], *([printable(name), _text(one)] for name, one in report.conditions.items())]
    different, rows = different_conditions(report, other), list[list[str]]()
    for name in dict.fromkeys([*report.conditions, *other.conditions]):
        values = [_text(one.conditions.get(name, "none")) for one in (report, other)]
        rows.append([printable(name), *values, "differs" if printable(name) in different else ""])
    return [["condition", "A", "B", ""], *rows]


def different_conditions(report: StoredReport, other: StoredReport) -> list[str]:
    """Name the conditions because of which two reports must not be ranked."""
    names = dict.fromkeys([*report.conditions, *other.conditions])
    first, second = report.conditions, other.conditions
    return [printable(name) for name in names if differences({name: first.get(name)}, {name: second.get(name)})]


def comparison(report: StoredReport, other: StoredReport) -> Table:
    """Compose the scores of two reports; those of the same conditions and N with their difference and the better."""
    ranked = not different_conditions(report, other)
    rows = [["score", "A (95 %)", "B (95 %)", "B - A", "better"]]
    for row in compare_scores([{"scores": one.scores} for one in (report, other)], ranked):
        difference = better = ""
        first, second = row.scores
        if row.is_ranked and first and second:
            change, unit = second["value"] - first["value"], first["unit"]
            shown = format_value((change, None, None), unit).replace(" %", " points")
            difference = f"+{shown}" if change > 0 else shown
            better = "equal" if row.best is None else "AB"[second["value"] == row.best]
        rows.append([row.name, *row.cells(), difference, better])
    return rows


def figures(report: StoredReport) -> list[tuple[Image.Image, str]]:
    """Open the figures of a report, with their names."""
    paths = [path for path in sorted(report.folder.glob("*.png")) if _is_inside(report.folder, path)]
    return [(picture, printable(path.stem)) for path in paths if (picture := _picture(path))]


def columns(report: StoredReport) -> list[Path]:
    """List the folders of samples: generated, reference, then the others."""
    names = sorted(path.name for path in report.folder.iterdir() if path.is_dir() and not path.is_symlink())
    ordered = [name for name in FIRST_COLUMNS if name in names] + [name for name in names if name not in FIRST_COLUMNS]
    return [report.folder / name for name in ordered if not name.startswith(".")]


def sample_files(report: StoredReport, uid: str) -> dict[str, Path]:
    """Find the files of a Uid by column."""
    found: dict[str, Path] = {}
    for column in columns(report) if files.is_safe_uid(uid) else []:
        paths = (column / f"{uid}{suffix}" for suffix in MEDIA_SUFFIXES)
        if path := next((path for path in paths if _is_inside(report.folder, path)), None):
            found[printable(column.name)] = path
    return found


def caption(report: StoredReport, uid: str) -> str:
    """Find the text of a Uid in the settings of the generated files; "" if there is none."""
    for column in columns(report):
        path = column / "settings.json"
        try:
            inputs = files.read_json(path).get("inputs") if _is_inside(report.folder, path) else None
        except UserError:  # damaged: not needed for the scores
            continue
        text = inputs.get(uid) if isinstance(inputs, dict) else None
        if isinstance(text, str) and Path(text).suffix.lower() not in files.AUDIO_SUFFIXES | files.PICTURE_SUFFIXES:
            return printable(text)
    return ""


def rankings(report: StoredReport) -> list[tuple[str, str]]:
    """List the selections of samples as (title, key): the worst of each score, and all."""
    names = dict.fromkeys(score for score, _, _ in report.outliers)
    return [*((f"worst by {name}", name) for name in names), ("all samples", ALL)]


def samples(report: StoredReport, ranking: object) -> dict[str, str]:
    """Map the Uids of a ranking to their titles, worst first; a UserError for one that is not in `rankings`."""
    if ranking == ALL:
        return {uid: printable(uid) for uid in _all_uids(report)[:MAX_LISTED]}
    worst = {uid: f"{value:.4g}: {printable(uid)}" for name, uid, value in report.outliers if name == ranking}
    if not worst:
        raise UserError("no such list of samples: choose one")
    return worst


def _all_uids(report: StoredReport) -> list[str]:
    """List the Uids of the worst samples, and of the files in the first column."""
    uids = dict.fromkeys(uid for _, uid, _ in report.outliers)
    for column in columns(report)[:1]:
        paths = (path for path in sorted(column.rglob("*")) if path.suffix.lower() in MEDIA_SUFFIXES)
        uids |= dict.fromkeys(path.relative_to(column).with_suffix("").as_posix() for path in paths)
    return sorted(filter(files.is_safe_uid, uids))


class Shown(NamedTuple):
    """A sample to play or to look at; neither sound nor picture if its file is unreadable."""

    title: str
    sound: tuple[int, np.ndarray] | None = None  # rate in Hz, int16 (n,) or (n, channels)
    picture: Image.Image | None = None


def sample(report: StoredReport, uid: object, other: StoredReport | None = None) -> list[Shown]:
    """Read the files of a Uid, column by column from both reports; a UserError unless the first one lists the Uid."""
    if not isinstance(uid, str) or uid not in {*_all_uids(report), *(one for _, one, _ in report.outliers)}:
        raise UserError("no such sample: choose one of the list")
    first, second = sample_files(report, uid), sample_files(other, uid) if other else {}
    shown = []
    for column in dict.fromkeys([*first, *second]):
        paths = {side: found[column] for side, found in (("A", first), ("B", second)) if column in found}
        if len(paths) == 2 and filecmp.cmp(*paths.values(), shallow=False):  # such as the same reference
            paths = {"A and B": paths["A"]}
        shown += [_read(path, f"{side}: {column}" if other else column) for side, path in paths.items()]
    return shown


def _read(path: Path, title: str) -> Shown:
    is_sound = path.suffix.lower() in SOUND_SUFFIXES
    sound, picture = (_sound(path), None) if is_sound else (None, _picture(path))
    return Shown(title if sound or picture else f"{title} (unreadable)", sound, picture)


def _sound(path: Path) -> tuple[int, np.ndarray] | None:
    """Read a sound as int16, which a player shows as it is: it would normalise the peak of floats."""
    try:
        rate = soundfile.info(audio.encoded(path)).samplerate
        wave = audio.load(path, rate, mono=False, seconds=MAX_SECONDS)  # (channels, n)
    except (UserError, soundfile.SoundFileError):
        return None
    scaled = np.clip(np.nan_to_num(wave), -1, 1) * 32768
    whole = np.minimum(scaled.round(), 32767).astype(np.int16)
    return rate, np.ascontiguousarray(whole[0] if len(whole) == 1 else whole.T)


def _picture(path: Path) -> Image.Image | None:
    try:
        return open_image(path)
    except UserError:
        return None
