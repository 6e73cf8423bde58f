"""Score a folder of generated sounds or pictures: `run_eval.sh --generated --reference` of every recipe.

Files are compared with the rows of a reference, paired by Uid and never by order.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sonolume.config.options import FolderOptions
from sonolume.models import runtime
from sonolume.models.evaluation import figures, reconstruction
from sonolume.models.evaluation.embedders.base import BATCH_SIZE
from sonolume.models.evaluation.embedders.cache import EMBEDDINGS
from sonolume.models.evaluation.embedders.load import load_all
from sonolume.models.evaluation.metrics import add_onset_scores, add_scores
from sonolume.models.evaluation.report import Report, finish, measurement_conditions
from sonolume.models.evaluation.samples import PICTURE, SOUND, Files, Samples
from sonolume.modules.mel import MelSettings
from sonolume.utils import files, manifest
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.image import UNREADABLE
from sonolume.utils.manifest import Row

SOURCES = ("audio", "image", "video")  # files that a row names, and keys of a sidecar


def score_folder(
    options: FolderOptions, folder: Path, device: str, batch_size: int = BATCH_SIZE, mel: MelSettings | None = None
) -> None:
    """Write report.json, report.md and sheets of the samples to `folder`; embed them on `device`.

    With the `mel` of recipes that reconstruct sounds, also score each sound by its distance to the reference of its
    Uid, and require no embedder. Raises a UserError for no embedder, nothing to score, or an unusable input.
    """
    generated, reference = options.generated, options.reference
    if generated is None:
        flag = "embedder" if reference is None else "reference"
        raise UserError(f"--{flag} needs --generated FOLDER: the sounds or pictures that are scored")
    if mel is not None and reference is None:
        raise UserError("--generated needs --reference FOLDER_OR_MANIFEST: the sounds that were reconstructed")
    if mel is None and not options.embedder:
        raise UserError("--generated needs --embedder KIND:SOURCE, such as clap:laion/clap-htsat-unfused or mel:")
    report = Report({}, facts={"generated": str(generated), "reference": str(reference or "none")})
    samples = collect(generated, reference, report)
    embedders = load_all(options.embedder, runtime.pick_device(device))
    for embedder in embedders:
        embedder.require(samples.medium.plural)
    takes = {medium for embedder in embedders for medium in embedder.takes}
    uses_labels = "texts" in takes or any(embedder.labels for embedder in embedders)
    compared: list[Files | Mapping[str, str]] = [  # by Uid; empty if no embedder uses it
        samples.reference, samples.inputs if samples.other.plural in takes else {},
        samples.captions if "texts" in takes else {}, samples.labels if uses_labels else {},
    ]  # fmt: skip
    if embedders and reference is not None and not any(compared):
        names, what = " and ".join(embedder.name for embedder in embedders), samples.medium.plural
        raise UserError(f"--reference {reference}: holds no {what}, and nothing else that {names} uses")
    if mel is not None:
        reconstruction.add_pair_distances(report, samples, mel)
    if embedders:
        uids = dict.fromkeys(uid for side in compared for uid in side)
        contents = [str((uid, *(_content(side.get(uid)) for side in compared))) for uid in uids]
        paired = sorted(samples.generated.keys() & uids.keys())
        report.conditions |= measurement_conditions(
            [embedder.facts() for embedder in embedders], contents, len(samples.generated),
            compared=samples.medium.plural, pairs=len(paired), pairs_hash=content_hash(paired),
        )  # fmt: skip
        add_scores(report, samples, embedders, options.cache_dir or folder / EMBEDDINGS, batch_size)
        if samples.videos:
            add_onset_scores(report, samples.generated, samples.reference)
    folder.mkdir(parents=True, exist_ok=True)
    finish(report, folder, figures.sample_sheets(folder, report, samples))


def _content(found: Path | str | None) -> str | None:
    """Return the hash of a file, or a text as it is."""
    if not isinstance(found, Path):
        return found
    try:
        return content_hash(found)
    except OSError:  # reported when it is embedded
        return "unreadable"


def collect(generated: Path, reference: Path | None, report: Report) -> Samples:
    """Collect the sounds of --generated, videos as their sound tracks, or its pictures if there are no sounds.

    A file belongs to the row of its name (the path without suffix), else to the row whose sound, picture, video or
    caption its sidecar, the json of run_inference.sh, names as its source. The reference is a folder or manifest with
    real files, captions, labels, and the inputs of the other medium. Counts and left out files go into `report`.

    Raises:
        UserError: a folder or manifest cannot be read, or nothing in it can be used.
    """
    found, ignored = _generated_files(generated)
    rows, repeated = _reference_rows(reference)
    root = generated if generated.is_dir() else generated.parent
    made, further = _match_rows(by_uid(found, root), rows)
    captions = {uid: text for uid, path in made.items() if isinstance(text := _sidecar(path).get("text"), str) and text}
    captions |= {uid: row.captions[0] for uid, row in rows.items() if row.captions}
    labels = {uid: row.label for uid, row in rows.items() if row.label}
    sounds = {uid: path for uid, row in rows.items() if (path := row.audio or row.video)}
    pictures = {uid: row.image for uid, row in rows.items() if row.image}
    videos = {uid: row.video for uid, row in rows.items() if row.video}
    if found[0].suffix.lower() in files.AUDIO_SUFFIXES:
        samples = Samples(SOUND, made, sounds, captions, labels, pictures, videos)
    else:
        samples = Samples(PICTURE, made, pictures, captions, labels, sounds)
    counts = {"further samples of the same input": further, "pictures next to the sounds, not scored": ignored,
              "further rows of the same Uid": repeated}  # fmt: skip
    if reference is not None:
        counts |= _report_pairs(samples, rows, reference, report)
    report.counts |= {what: count for what, count in counts.items() if count}
    if samples.medium is PICTURE:
        _count_odd_sizes(report, samples.generated.values(), "generated")
        _count_odd_sizes(report, samples.reference.values(), "reference")
    return samples


def by_uid(paths: Iterable[Path], root: Path) -> dict[str, Path]:
    """Map Uids (paths inside `root` without suffix) to files; raises a UserError for two files of one Uid."""
    found: dict[str, Path] = {}
    for path in paths:
        uid = path.relative_to(root).with_suffix("").as_posix()
        if uid in found:
            raise UserError(f"{path} and {found[uid]} have the same Uid {uid!r}: keep one")
        found[uid] = path
    return found


def _sidecar(path: Path) -> dict[str, Any]:
    """Read the json next to a generated file; empty without one."""
    try:
        return files.read_json(path.with_suffix(".json"))
    except UserError:
        return {}


def _match_rows(generated: Mapping[str, Path], rows: Mapping[str, Row]) -> tuple[dict[str, Path], int]:
    """Map the Uids of rows to the first file generated for each, and count the further files.

    Files that belong to no row, and to none alone by a source that their sidecar names, keep their own name.
    """
    owners: dict[str, set[str]] = {}
    for row in rows.values():
        paths = [str(path.resolve()) for key in SOURCES if (path := getattr(row, key))]
        for source in (*paths, *row.captions):
            owners.setdefault(source, set()).add(row.uid)
    found, further = dict[str, Path](), 0
    for name, path in generated.items():
        about = {} if name in rows else _sidecar(path)
        named = {key: about[key] for key in (*SOURCES, "text") if isinstance(about.get(key), str)}
        sources = [text if key == "text" else str(Path(text).resolve()) for key, text in named.items()]
        uid = next((min(uids) for source in sources if len(uids := owners.get(source, set())) == 1), name)
        further += uid in found
        found.setdefault(uid, path)
    return found, further


def _generated_files(path: Path) -> tuple[list[Path], int]:
    """List the sounds, else the pictures, and count the pictures next to sounds."""
    if not path.exists():
        raise UserError(f"--generated {path}: no such file or folder")
    found = [path] if path.is_file() else [*files.sounds_in(path), *files.pictures_in(path)]
    sounds = [file for file in found if file.suffix.lower() in files.AUDIO_SUFFIXES]
    pictures = [file for file in found if file.suffix.lower() in files.PICTURE_SUFFIXES]
    if sounds:
        return sounds, len(pictures)
    if pictures := [file for file in pictures if "windows" not in _sidecar(file)]:  # no storyboards of run_inference.sh
        return pictures, 0
    known = ", ".join(sorted(files.AUDIO_SUFFIXES | files.PICTURE_SUFFIXES))
    raise UserError(f"--generated {path}: holds neither sounds nor pictures ({known})")


def _reference_rows(path: Path | None) -> tuple[dict[str, Row], int]:
    """Map Uids to the first row of each, and count the further rows."""
    if path is None:
        return {}, 0
    is_plain = path.is_dir() and not any((path / name).is_file() for name in manifest.FOLDER_MANIFESTS)
    rows = _rows_of_folder(path) if is_plain else manifest.read_manifest(path)
    found: dict[str, Row] = {}
    for row in rows:
        if row.audio and row.audio.suffix.lower() in files.PICTURE_SUFFIXES:  # a column Path is read as Audio
            row.image, row.audio = row.image or row.audio, None
        found.setdefault(row.uid, row)
    return found, len(rows) - len(found)


def _rows_of_folder(folder: Path) -> list[Row]:
    """Make one row of the sounds and pictures of one name."""
    sounds = files.sounds_in(folder)
    by_uid(sounds, folder)
    rows = {row.uid: row for row in manifest.read_manifest(folder)} if sounds else {}
    for uid, path in by_uid(files.pictures_in(folder), folder).items():
        row = rows.setdefault(uid, Row(folder.resolve().name, uid, captions=manifest.sidecar_captions(path)))
        row.image = path
    if not rows:
        raise UserError(f"--reference {folder}: holds no sounds, no pictures and no manifest")
    return list(rows.values())


def _report_pairs(samples: Samples, rows: Mapping[str, Row], reference: Path, report: Report) -> dict[str, int]:
    """Count the files without a partner; raise a UserError if the reference cannot be compared with at all."""
    made = samples.generated
    unpaired = [uid for uid in made if uid not in rows]
    if len(unpaired) == len(made):
        example = f"{next(iter(made))!r} against {next(iter(rows))!r}"
        if not samples.reference:
            reason = f"no generated file belongs to a row: {example} (file names without suffix must be the Uids)"
            raise UserError(f"--reference {reference}: {reason}")
        report.facts["pairs"] = f"none, so whole sets are compared: {example}"
        return {}
    report.leave_out((uid, "generated, but the reference has no such Uid: in no pair") for uid in unpaired)
    missing = sum(uid not in made for uid in rows)
    return {"generated without a reference": len(unpaired), "references without anything generated": missing}


def _count_odd_sizes(report: Report, paths: Iterable[Path], role: str) -> None:
    """Count the pictures that differ in size from most; unreadable ones are reported when they are embedded."""
    sizes: Counter[tuple[int, int]] = Counter()
    for path in paths:
        with contextlib.suppress(*UNREADABLE), Image.open(path) as picture:
            sizes[picture.size] += 1
    for (width, height), count in sizes.most_common(1) if len(sizes) > 1 else ():
        report.counts[f"{role} not of {width} x {height} pixels"] = sizes.total() - count
