"""Texts of a sound for training: its labels, title, description or tags."""

from typing import Any

from sonolume.config.sound_text import TextField
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.text import has_surrogates

TEMPLATE = "a photo of {}"
_SEPARATORS = str.maketrans("_,", "  ", "()")

Columns = dict[str, Any]  # of a table, by their lower-case names
Entry = tuple[Row, Columns]


def texts_of(row: Row, columns: Columns, choice: TextField) -> list[str]:
    """Choose the texts of a sound; [] if it has none. See `SoundTextConfig` for what stands for a missing field.

    Raises:
        UserError: a field is neither text nor a list of texts.
    """
    labels = labels_of(row, columns)
    match choice:
        case TextField.labels:
            texts = [" ".join(labels)] if labels else row.captions
        case TextField.template:
            texts = [TEMPLATE.format(label) for label in labels[:1]]
        case TextField.tags:
            texts = [" ".join(_cleaned(_items(row, columns, "tags")))]
        case TextField.title:
            texts = _items(row, columns, "title", separator=None)
        case TextField.description:
            texts = _items(row, columns, "description", separator=None) or row.captions
    return list(dict.fromkeys(text for text in (" ".join(text.split()) for text in texts) if text))


def labels_of(row: Row, columns: Columns) -> list[str]:
    """Clean the labels of a sound, from the column `labels` (separated by commas), else its one Label."""
    return _cleaned(_items(row, columns, "labels")) or _cleaned([row.label or ""])


def _cleaned(labels: list[str]) -> list[str]:
    """Turn `Keyboard_(musical)` into `Keyboard musical`; drop what is empty."""
    texts = (" ".join(label.translate(_SEPARATORS).split()) for label in labels)
    return [text for text in texts if text]


def _items(row: Row, columns: Columns, name: str, separator: str | None = ",") -> list[str]:
    """Split a text, or each text of a list, at the separator."""
    value = columns.get(name)
    values = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, str | int | float) for one in values):
        raise UserError(f"{row.dataset}: {row.uid}: {name} is {value!r:.60}, expected text")
    items = [str(one) for one in values if one is not None]
    if any(map(has_surrogates, items)):
        raise UserError(f"{row.dataset}: {row.uid}: {name} is {value!r:.60}, with half a character: write it anew")
    return [part.strip() for item in items for part in (item.split(separator) if separator else [item])]
