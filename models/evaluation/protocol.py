"""Under which conditions a result was measured: numbers of different conditions must not be ranked."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

FORMULAS = 1  # raised when a metric's formula changes
PACKAGES = ("sonolume", "torch", "torchmetrics", "diffusers", "transformers")  # they decide a number

Fingerprint = dict[str, Any]


def fingerprint(
    embedders: Iterable[str | Mapping[str, Any]],
    reference: Iterable[str],
    generated: int,
    *,
    seed: int | None = None,
    sample_rate: int | None = None,
    window: float | None = None,
    **more: Any,
) -> Fingerprint:
    """What must agree between two results before one can be called better.

    Args:
        embedders: what listened or looked: `Embedder.facts()`, or a name with its version.
        reference: the Uids (or captions) that were asked for, in any order.
        generated: how many samples were scored.
        seed: of the samples, where they were made here.
        sample_rate: Hz of what was compared.
        window: seconds of what was compared, where it was cut to one length.
        more: options of the metrics, and what else decides the numbers.
    """
    asked = sorted(reference)
    return {
        "formulas": FORMULAS,
        "embedders": sorted((_plain(embedder) for embedder in embedders), key=_text),
        "reference": len(asked),
        "reference_hash": digest(asked),
        "generated": generated,
        "seed": seed,
        "sample_rate": sample_rate,
        "window": window,
        "resampler": f"soxr {version('soxr')} HQ",
        "versions": {name: version(name) for name in PACKAGES},
        **more,
    }


def digest(content: Any) -> str:
    """12 characters that change with the content."""
    return hashlib.sha256(_text(content).encode()).hexdigest()[:12]


def differences(first: Fingerprint, second: Fingerprint) -> list[str]:
    """The fields in which two fingerprints differ, with both values; empty when results may be ranked."""
    found = []
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if a != b:
            found.append(f"{name} {json.dumps(_less(a, b))} / {json.dumps(_less(b, a))}")
    return found


def _less(content: Any, other: Any) -> Any:
    """Without the entries that two lists or objects have in common."""
    if isinstance(content, dict) and isinstance(other, dict):
        return {key: value for key, value in content.items() if key not in other or other[key] != value}
    if isinstance(content, list) and isinstance(other, list):
        return [entry for entry in content if entry not in other]
    return content


def _plain(embedder: str | Mapping[str, Any]) -> str | dict[str, Any]:
    return embedder if isinstance(embedder, str) else dict(embedder)


def _text(content: Any) -> str:
    return json.dumps(content, sort_keys=True)
