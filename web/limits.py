"""Checks of what a browser or a program sends, before a model or a decoder gets it. Imports no gradio."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from sonolume.config.options import Spans, parse_spans
from sonolume.utils.errors import UserError

MAX_SPAN = 40  # characters of a part of a sound


def check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> Any:
    """Return a number from `low` to `high`, or None for None; raises a UserError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {value!r:.40}")
    if not low <= value <= high:
        raise UserError(f"{name} must be from {low:g} to {high:g}, got {value:g}")
    if whole and value != int(value):
        raise UserError(f"{name} must be a whole number, got {value:g}")
    return int(value) if whole else value


def check_text(name: str, value: Any, longest: int, required: bool = False) -> str:
    """Return a text of at most `longest` characters; raises a UserError for anything else."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be a text")
    if len(value) > longest:
        raise UserError(f"{name} has {len(value)} characters, at most {longest} are read: shorten it")
    if required and not value.strip():
        raise UserError(f"{name} is empty")
    return value


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a UserError unless `value` is one of `choices`, or None."""
    if value is not None and value not in choices:
        raise UserError(f"{name} {value!r:.40} is none of {', '.join(choices)}")


def check_span(name: str, value: Any) -> Spans:
    """Parse a part of a sound such as "3-6.8" or "3-"; none for an empty text."""
    text = check_text(name, value or "", MAX_SPAN).strip()
    try:
        return parse_spans(text) if text else []
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{name}: {error}") from None
