"""Which generated file belongs to which reference: by Uid, never by order."""

from collections.abc import Iterable, Sequence
from pathlib import Path

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
