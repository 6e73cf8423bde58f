"""What lies in a folder to be scored, and what belongs to it in a folder or manifest of real ones."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sonolume.models.evaluation.pairing import beside, by_uid, claimed
from sonolume.models.evaluation.pictures import Pictures
from sonolume.models.evaluation.sounds import Sounds
from sonolume.utils import manifest
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

GENERATED = "generated, but the reference has nothing of this Uid: in no pair"


@dataclass
class Gathered:
    """What is compared, and what there is to say about it."""

    files: Sounds | Pictures
    counts: dict[str, int] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


def gather(generated: Path, reference: Path | None) -> Gathered:
    """Files by Uid (file name without suffix); what run_inference.sh wrote tells by its json what it was made from.

    Sounds in --generated are scored, videos as their sound tracks; pictures where there are none. A reference gives
    real ones, captions, labels, and the sounds, pictures or videos that the others were made from.

    Raises:
        UserError: a folder or manifest that cannot be read, or holds nothing of use.
    """
    files, ignored = _generated(generated)
    rows, repeated = _reference(reference)
    made, further = claimed(by_uid(files, generated if generated.is_dir() else generated.parent), list(rows.values()))
    captions = {uid: text for uid, path in made.items() if isinstance(text := beside(path).get("text"), str) and text}
    captions |= {uid: row.captions[0] for uid, row in rows.items() if row.captions}
    labels = {uid: row.label for uid, row in rows.items() if row.label}
    heard = _files((uid, row.audio or row.video) for uid, row in rows.items())
    seen = _files((uid, row.image) for uid, row in rows.items())
    found: Sounds | Pictures
    if files[0].suffix.lower() in manifest.AUDIO_SUFFIXES:
        found = Sounds(made, heard, captions, labels, seen, _files((uid, row.video) for uid, row in rows.items()))
    else:
        found = Pictures(made, seen, captions, labels, heard)
    gathered = Gathered(found)
    gathered.counts |= {"further samples of the same input": further} if further else {}
    gathered.counts |= {"pictures beside the sounds": ignored} if ignored else {}
    gathered.counts |= {"rows of a Uid that was there before": repeated} if repeated else {}
    if reference is not None:
        _look_for_pairs(gathered, rows, reference)
    if isinstance(found, Pictures):
        gathered.counts |= {f"{role} {what}": n for role in ("generated", "reference")
                            for what, n in _odd_sizes(getattr(found, role).values()).items()}  # fmt: skip
    return gathered


def _generated(path: Path) -> tuple[list[Path], int]:
    """Its sounds, else its pictures; and how many pictures lie beside sounds."""
    if not path.exists():
        raise UserError(f"--generated {path}: no such file or folder")
    files = [path] if path.is_file() else [*manifest.sounds_in(path), *manifest.pictures_in(path)]
    sounds = [file for file in files if file.suffix.lower() in manifest.AUDIO_SUFFIXES]
    pictures = [file for file in files if file.suffix.lower() in manifest.PICTURE_SUFFIXES]
    if sounds:
        return sounds, len(pictures)
    pictures = [file for file in pictures if "windows" not in beside(file)]  # contact sheets of run_inference.sh
    if not pictures:
        known = ", ".join(sorted(manifest.AUDIO_SUFFIXES | manifest.PICTURE_SUFFIXES))
        raise UserError(f"--generated {path}: neither sounds nor pictures in it ({known})")
    return pictures, 0


def _reference(path: Path | None) -> tuple[dict[str, Row], int]:
    """Uid -> row, the first of its Uid; and how many came later."""
    if path is None:
        return {}, 0
    plain = path.is_dir() and not any((path / name).is_file() for name in manifest.FOLDER_MANIFESTS)
    rows = _rows_of_folder(path) if plain else manifest.read_manifest(path)
    found: dict[str, Row] = {}
    for row in rows:
        if row.audio and row.audio.suffix.lower() in manifest.PICTURE_SUFFIXES:  # a column Path is read as Audio
            row.image, row.audio = row.image or row.audio, None
        found.setdefault(row.uid, row)
    return found, len(rows) - len(found)


def _rows_of_folder(folder: Path) -> list[Row]:
    """Sounds and pictures of one name are one row."""
    sounds = manifest.read_manifest(folder) if manifest.sounds_in(folder) else []
    rows = {row.uid: row for row in sounds}
    for uid, path in by_uid(manifest.pictures_in(folder), folder).items():
        row = rows.setdefault(uid, Row(folder.resolve().name, uid, captions=manifest.sidecar_captions(path)))
        row.image = path
    if not rows:
        raise UserError(f"--reference {folder}: no sounds, no pictures, and no manifest in it")
    return list(rows.values())


def _look_for_pairs(gathered: Gathered, rows: Mapping[str, Row], reference: Path) -> None:
    """Count who stays alone; raise a UserError where the reference is of no use at all."""
    made, real = gathered.files.generated, gathered.files.reference
    alone = [uid for uid in made if uid not in rows]
    if len(alone) == len(made):
        example = f"{next(iter(made))!r} against {next(iter(rows))!r}"
        if not real:
            raise UserError(
                f"--reference {reference}: not one generated file belongs to a row of it: {example} "
                "(file names without suffix must be the Uids)"
            )
        gathered.facts["pairs"] = f"none, so whole sets are compared: {example}"
        return
    gathered.left_out += [(uid, GENERATED) for uid in alone]
    if alone:
        gathered.counts["generated without a reference"] = len(alone)
    if unasked := sum(uid not in made for uid in rows):
        gathered.counts["references without anything generated"] = unasked


def _files(items: Iterable[tuple[str, Path | None]]) -> dict[str, Path]:
    return {uid: path for uid, path in items if path is not None}


def _odd_sizes(files: Iterable[Path]) -> dict[str, int]:
    """How many pictures have another size than most; unreadable ones are found later."""
    sizes: Counter[tuple[int, int]] = Counter()
    for path in files:
        try:
            with Image.open(path) as picture:
                sizes[picture.size] += 1
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
    if len(sizes) < 2:
        return {}
    (width, height), count = sizes.most_common(1)[0]
    return {f"not of {width} x {height} pixels": sum(sizes.values()) - count}
