"""Under which conditions a result was measured: numbers of different conditions must not be ranked."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

FORMULAS = 1  # raised when a metric's formula changes

Fingerprint = dict[str, Any]


def fingerprint(
    embedders: Iterable[str],
    reference: Iterable[str],
    generated: int,
    versions: Mapping[str, str],
    **more: Any,
) -> Fingerprint:
    """What must agree between two results before one can be called better.

    Args:
        embedders: their names with revisions.
        reference: the Uids (or captions) that were asked for, in any order.
        generated: how many samples were scored.
        versions: of the packages that decide a number.
        more: sample rate, window, seeds, metric options.
    """
    asked = sorted(reference)
    return {
        "formulas": FORMULAS,
        "embedders": sorted(embedders),
        "reference": len(asked),
        "reference_hash": digest(asked),
        "generated": generated,
        "resampler": "soxr HQ",
        "versions": dict(versions),
        **more,
    }


def digest(content: Any) -> str:
    """12 characters that change with the content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def differences(first: Fingerprint, second: Fingerprint) -> list[str]:
    """The fields in which two fingerprints differ, with both values; empty when results may be ranked."""
    found = []
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if a != b:
            found.append(f"{name} {json.dumps(a)} / {json.dumps(b)}")
    return found
