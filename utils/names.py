"""File names that collide with no other: of the rows and splits of a data set, and of results in a shared folder."""

import itertools
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from sonolume.utils.files import naming


def key(name: str) -> str:
    """Normal form of a name: equal where macOS or Windows see one file (case, Unicode form, trailing dots)."""
    return re.sub(r"[. ]+(?=/|$)", "", unicodedata.normalize("NFC", name.casefold()))


def distinct(names: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """Number names whose `key` is that of an earlier or a taken one: "a", "A" -> "a", "A-2".

    Args:
        taken: names that none may get.
    """
    originals, used = {key(name) for name in names}, {key(name) for name in taken}
    counters: dict[str, Iterator[int]] = {}
    found = []
    for name in names:
        unique = name
        if key(name) in used:
            numbers = counters.setdefault(key(name), itertools.count(2))
            numbered = (f"{name}-{number}" for number in numbers)
            unique = next(one for one in numbered if key(one) not in used and key(one) not in originals)
        used.add(key(unique))
        found.append(unique)
    return found


def distinct_uids(uids: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Number Uids as `distinct`, also one whose file {uid}{suffix} would be a folder of another: "dog" and "dog/1"."""
    folders = {str(folder) for uid in uids for folder in PurePosixPath(uid).parents}
    return distinct(uids, {folder.removesuffix(end) for folder in folders for end in suffixes if folder.endswith(end)})


def reserve(folder: Path, stem: str, suffixes: Sequence[str]) -> Path:
    """Choose a free name of stem, stem-2, stem-3 ..., the next one unless there are gaps; return it with suffixes[0].

    A name is free if no file has it with any of `suffixes` or ".json". The json, which describes the result, is created
    empty; this reserves the name in all processes at once.
    """

    def path(number: int) -> Path:
        return folder / (f"{stem}-{number}" if number > 1 else stem)

    def is_taken(number: int) -> bool:
        return any(Path(f"{path(number)}{suffix}").exists() for suffix in {".json", *suffixes})

    low, high = 0, 1  # double, then halve: asking for every number would take long among thousands of results
    while is_taken(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_taken(middle) else (low, middle)
    for number in itertools.count(high):
        sidecar = Path(f"{path(number)}.json")
        try:
            with naming(sidecar):
                sidecar.open("x").close()
        except FileExistsError:
            continue
        if any(Path(f"{path(number)}{suffix}").exists() for suffix in suffixes):  # of a number beyond a gap
            sidecar.unlink()
            continue
        return Path(f"{path(number)}{suffixes[0]}")
    raise AssertionError


def release(path: Path) -> None:
    """Remove the json that reserves a name, unless it has been written."""
    sidecar = path.with_suffix(".json")
    if sidecar.is_file() and not sidecar.stat().st_size:
        sidecar.unlink()
