"""Which rows of a data set cannot be used, and why; counted, listed and printed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonolume.utils import files
from sonolume.utils.audio import PYAV_REMEDY
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, write_manifest

MIN_SECONDS = 0.1  # shorter clips are refused, shorter last windows left out
MIN_PEAK = 1e-4  # -80 dB of full scale: quieter clips count as silent
REPORT_FILE = "report.json"
FAILED_FILE = "report_failed.json"


@dataclass(frozen=True)
class Refusal:
    """A row that is left out, and why."""

    uid: str
    reason: str
    detail: str = ""
    audio: str | None = None


def of_wave(wave: np.ndarray, sample_rate: int, least: float = MIN_SECONDS) -> tuple[str, str]:
    """(reason, detail) of a wave (n,) that is empty, not finite, silent or under `least` seconds; else ("", "")."""
    if not len(wave):
        return "empty", "no samples"
    if not np.isfinite(wave).all():
        return "NaN", f"{np.count_nonzero(~np.isfinite(wave))} samples are NaN or infinite"
    if len(wave) < least * sample_rate:
        return "too short", f"{len(wave) / sample_rate:.3f} s, at least {least:.3g} s are needed"
    if np.abs(wave).max() < MIN_PEAK:
        return "silent", f"peak {np.abs(wave).max():.1e} of full scale"
    return "", ""


def finish(
    folder: Path,
    examples: Sequence[Row],
    refusals: Sequence[Refusal],
    names: Mapping[str, str],
    looked_at: int,
    reused: int,
    **remarks: Any,
) -> dict[str, int]:
    """Write the manifests and report.json of a data set, print what was done, and count the examples of each split.

    Args:
        names: split -> file name of its manifest; other splits get {split}.json.
        looked_at: clips that were opened.
        reused: of them, how many an earlier run had done.
        remarks: more for the report.

    Raises:
        UserError: not one usable clip, or none to train on.
    """
    counts = dict(Counter(str(row.split) for row in examples))
    reasons = dict(Counter(refusal.reason for refusal in refusals).most_common())
    report = {"examples": counts, "refused": reasons, **remarks, "refusals": [asdict(refusal) for refusal in refusals]}
    path = folder / REPORT_FILE
    if not examples and any((folder / name).is_file() for name in names.values()):
        path = folder / FAILED_FILE  # what an earlier run made stays as its report says
    files.write_json(path, report)
    refused = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if not examples:
        first = f" (the first: {refusals[0].detail})" if refusals and refusals[0].detail else ""
        raise UserError(f"{folder}: not one usable clip ({refused}); see {path}{first}")
    if set(counts) == {"valid"}:
        raise UserError(f"{folder}: all clips went to validation: bring more, or give some the Split train")
    for split in {"train", "valid", *counts}:
        name = names.get(split, f"{files.safe_name(split)}.json")
        write_manifest([row for row in examples if row.split == split], folder / name)
    print(f"{folder}: {tell(counts)}" + (f" ({reused} clips were done before)" if reused else ""))
    if not counts.get("valid"):
        print(f"{folder}: nothing to validate on: more clips, or some with Split valid, would help")
    _print(folder, refusals, refused, looked_at)
    return counts


def tell(counts: Mapping[str, int]) -> str:
    """ "190 train, 10 valid"."""
    return ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))


def _print(folder: Path, refusals: Sequence[Refusal], refused: str, looked_at: int) -> None:
    counts = Counter(refusal.reason for refusal in refusals)
    if refusals:
        print(f"{folder}: left out {len(refusals)}: {refused}; see {folder / REPORT_FILE}")
    if counts["missing"]:
        print(f"{folder}: {counts['missing']:,} of {looked_at:,} clips are not there: listed in {REPORT_FILE}")
    if counts["needs PyAV"]:
        print(f"{folder}: m4a, aac and videos are read with PyAV: {PYAV_REMEDY}, then run again")
