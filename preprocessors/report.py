"""Report of a prepared data set: its splits, and which rows were left out and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonolume.utils import files
from sonolume.utils.audio import PYAV_REMEDY
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, write_manifest

REPORT_FILE = "report.json"
FAILED_FILE = "report_failed.json"


@dataclass(frozen=True)
class LeftOut:
    """A row that is not prepared, and why."""

    uid: str
    reason: str
    detail: str = ""
    audio: str | None = None

    @classmethod
    def of(cls, row: Row, reason: str, detail: str = "") -> "LeftOut":
        return cls(row.uid, reason, detail, str(row.audio) if row.audio else None)


def write(
    folder: Path,
    examples: Sequence[Row],
    left_out: Sequence[LeftOut],
    names: Mapping[str, str],
    opened: int,
    reused: int,
    **facts: Any,
) -> dict[str, int]:
    """Write and print the report of a data set, write its manifests, and count the examples of each split.

    Args:
        names: split -> file name of its manifest; other splits get {split}.json.
        opened: clips that were opened.
        reused: of them, how many an earlier run had prepared.
        facts: more for the report.

    Raises:
        UserError: there is no usable clip, or none to train on.
    """
    counts = dict(Counter(str(row.split) for row in examples))
    reasons = dict(Counter(one.reason for one in left_out).most_common())
    path = folder / REPORT_FILE
    if not examples and any((folder / name).is_file() for name in names.values()):
        path = folder / FAILED_FILE  # the manifests of an earlier run keep their report
    refusals = [asdict(one) for one in left_out]
    files.write_json(path, {"examples": counts, "refused": reasons, **facts, "refusals": refusals})
    summary = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if not examples:
        first = f" (the first: {left_out[0].detail})" if left_out and left_out[0].detail else ""
        raise UserError(f"{folder}: not one usable clip ({summary}); see {path}{first}")
    if set(counts) == {"valid"}:
        raise UserError(f"{folder}: all clips went to validation: add clips, or give some the Split train")
    for split in {"train", "valid", *counts}:
        name = names.get(split, f"{files.safe_name(split)}.json")
        write_manifest([row for row in examples if row.split == split], folder / name)
    print(f"{folder}: {format_counts(counts)}" + (f" ({reused} clips were done before)" if reused else ""))
    if not counts.get("valid"):
        print(f"{folder}: nothing to validate on: add clips, or give some the Split valid")
    if left_out:
        print(f"{folder}: left out {len(left_out)}: {summary}; see {path}")
    if "missing" in reasons:
        print(f"{folder}: {reasons['missing']:,} of {opened:,} clips are missing: listed in {REPORT_FILE}")
    if "needs PyAV" in reasons:
        print(f"{folder}: m4a, aac and videos are read with PyAV: {PYAV_REMEDY}, then run again")
    return counts


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the sizes of splits, as in "190 train, 10 valid"."""
    return ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
