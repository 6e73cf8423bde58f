"""Which generated file belongs to which reference: by Uid, never by order."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


def by_uid(files: Iterable[Path], root: Path) -> dict[str, Path]:
    """Uid -> file; the Uid is the path inside `root` without its suffix.

    Raises:
        UserError: two files of one Uid.
    """
    found: dict[str, Path] = {}
    for path in files:
        uid = path.relative_to(root).with_suffix("").as_posix()
        if uid in found:
            raise UserError(f"{path} and {found[uid]} have the same Uid {uid!r}: keep one")
        found[uid] = path
    return found


def claimed(generated: Mapping[str, Path], rows: Sequence[Row]) -> tuple[dict[str, Path], int]:
    """Generated files by the Uid of the row they were made from, and how many more there are of such a row.

    By name, else by what the json beside a file names: the row's sound, picture or video, or one of its captions, if
    no other row has it. Others keep their name. The first file of a row counts, so that each input has one sample.
    """
    own: dict[str, set[str]] = {}
    for row in rows:
        sources = [str(path.resolve()) for path in (row.audio, row.image, row.video) if path]
        for source in (*sources, *row.captions):
            own.setdefault(source, set()).add(row.uid)
    known, found, further = {row.uid for row in rows}, dict[str, Path](), 0
    for name, path in generated.items():
        uid = name if name in known else _source(path, own) or name
        further += uid in found
        found.setdefault(uid, path)
    return found, further


def _source(path: Path, own: Mapping[str, set[str]]) -> str | None:
    """The Uid of the only row that has what a file was made from."""
    about = beside(path)
    files = [str(Path(about[key]).resolve()) for key in ("audio", "image", "video") if isinstance(about.get(key), str)]
    texts = [about["text"]] if isinstance(about.get("text"), str) else []
    for source in (*files, *texts):
        if len(own.get(source, ())) == 1:
            return next(iter(own[source]))
    return None


def beside(path: Path) -> dict[str, Any]:
    """What run_inference.sh wrote into the json beside a file; nothing without one."""
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def paired(generated: dict[str, Path], rows: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows that have a generated file, and (Uid, reason) of what stays alone on either side.

    Raises:
        UserError: not one pair; shows a name of each side.
    """
    wanted = {row.uid for row in rows}
    both = [row for row in rows if row.uid in generated]
    if not both:
        raise UserError(
            f"not one generated file belongs to a reference: {_example(generated)} against {_example(wanted)} "
            "(file names without suffix must be the Uids)"
        )
    alone = [(row.uid, "nothing generated for it") for row in rows if row.uid not in generated]
    return both, alone + [(uid, "generated, but not in the reference") for uid in generated if uid not in wanted]


def _example(names: Iterable[str]) -> str:
    first = next(iter(names), None)
    return "nothing" if first is None else repr(first)
