"""SpokenCOCO (Hsu et al. 2021): spoken captions of the pictures of COCO 2014, described by json files.

SpokenCOCO_train.json and SpokenCOCO_val.json are {"image_base_path", "audio_base_path", "data": [{"image": "val2014/
...jpg", "captions": [{"text", "speaker", "uttid", "wav"}]}]}. Paths are relative to the base paths, to the folder of
the json, or to the one around it. In the versions called unrolled, each entry has one "caption".
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sonolume.utils.errors import UserError
from sonolume.utils.files import read_json
from sonolume.utils.manifest import FOLDER_MANIFESTS, SPLITS, Row

FILE_NAME = "SpokenCOCO_train.json"
VERSIONS = ("", "_karpathy", "_unrolled_karpathy")  # ends of the names; the first one that is there is read
FORM = '{"data": [{"image": ..., "captions": [{"text": ..., "speaker": ..., "uttid": ..., "wav": ...}]}]}'
_SPLIT = re.compile(r"_(train|val|dev|test)(?![a-z])")


def tables(source: Path) -> list[Path]:
    """Find the json files in a folder without a manifest, or one folder below, or return `source` itself."""
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" and _holds_object(source) else []
    if any((source / name).is_file() for name in FOLDER_MANIFESTS):
        return []
    for version in VERSIONS:
        for depth in ("", "*/"):
            paths = [source.glob(f"{depth}SpokenCOCO_{split}{version}.json") for split in ("train", "val", "test")]
            if found := [path for group in paths for path in sorted(group)]:
                return [path for path in found if path.parent == found[0].parent]
    return []


def read(source: Path, dataset: str, media_dir: Path | None = None) -> list[Row]:
    """Read one row per recording; a missing file keeps the first path at which it was expected.

    Args:
        source: see `tables`.
        media_dir: folder to which paths are relative, before the ones of the module.
    """
    rows = [row for path in tables(source) for row in _read_table(path, dataset, media_dir)]
    for what, paths in (("recordings", [row.audio for row in rows]), ("pictures", [row.image for row in rows])):
        if not any(path and path.is_file() for path in paths):
            first = f", such as {paths[0]}" if paths else ""
            raise UserError(f"{source}: none of its {len(set(paths)):,} {what} is there{first}: name the folder to "
                            "which their paths are relative with --audio_dir")  # fmt: skip
    return rows


def _holds_object(path: Path) -> bool:
    """Whether a json file is an object, in contrast to the list of rows of a manifest."""
    with path.open("rb") as file:
        return file.read(1000).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")


def _read_table(path: Path, dataset: str, media_dir: Path | None) -> Iterator[Row]:
    content = read_json(path, f"a list of rows, or SpokenCOCO: {FORM}")
    entries = content.get("data")
    if not isinstance(entries, list):
        raise UserError(f'{path}: an object without the list "data": expected a list of rows, or SpokenCOCO, {FORM}')
    named = _SPLIT.search(path.stem)
    split = SPLITS.get(named[1], named[1]) if named else None
    base_paths = (str(content.get(name) or "") for name in ("image_base_path", "audio_base_path"))
    given = [media_dir] if media_dir else []
    image_places, audio_places = (
        [*given, path.parent / base, path.parent, path.parent.parent] for base in base_paths
    )  # fmt: skip
    for number, entry in enumerate(entries):
        where = f"{path}: data[{number}]"
        picture = _locate(_text(where, entry, "image"), image_places)
        for caption in _captions(where, entry):
            wav = _text(where, caption, "wav")
            uid = str(caption.get("uttid") or Path(wav).stem)
            texts = [text] if (text := str(caption.get("text") or "").strip()) else []
            speaker = str(caption.get("speaker") or "") or None
            yield Row(dataset, uid, _locate(wav, audio_places), texts, picture, split=split, speaker=speaker)


def _captions(where: str, entry: dict[str, Any]) -> list[Any]:
    captions = entry.get("captions", [entry["caption"]] if "caption" in entry else None)
    if not isinstance(captions, list):
        raise UserError(f'{where}: no list "captions": expected {FORM}')
    return captions


def _text(where: str, entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise UserError(f'{where}: "{name}" is {value!r:.60}, expected a file: {FORM}')
    return value


def _locate(name: str, places: Sequence[Path]) -> Path:
    """Return the path of a file in the first place where it exists, else in the first place."""
    return next((place / name for place in places if (place / name).is_file()), places[0] / name)
