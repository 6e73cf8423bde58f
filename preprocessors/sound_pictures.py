"""Sounds with pictures -> {processed_dir}/{Dataset}: 16 kHz wavs, pictures, train.json, valid.json, and a report.

The source is VGGSound, a folder of videos, a manifest of pairs (Audio or Video, and Image or Video), or the miniature
world. Running again continues where an interrupted run stopped.
"""

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sonolume.config.pairs import PairsConfig
from sonolume.preprocessors import vggsound
from sonolume.preprocessors.pair_files import Outcome, Pair, keep
from sonolume.preprocessors.parallel import ordered
from sonolume.preprocessors.refusals import Refusal, finish, tell
from sonolume.utils import files, manifest, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, assign_splits, read_manifest

SETTINGS_FILE = "pairs.json"
CLIPS_PER_WORKER = 20  # fewer are not worth the start of a process


def prepare(
    config: PairsConfig, dataset: str, source: Path | None = None, media_dir: Path | None = None
) -> dict[str, int]:
    """Make a data set of pairs ready for training and print what was done.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: as the module says. Without it the miniature world, if `config.miniworld` has scenes, else the data set
            as an earlier run left it.
        media_dir: where the files of a table or manifest lie, if not beside it.

    Returns:
        The number of examples in each split.

    Raises:
        UserError: no input, not one usable pair, or files of other settings in the way.
        OSError: the disk is full; the same call goes on from there.
    """
    if dataset != Path(dataset).name or dataset in ("", ".."):
        raise UserError(f"dataset: {dataset!r} is not the name of a folder")
    folder = paths.resolve(config.processed_dir) / dataset
    if source is None and not config.miniworld.train_scenes:
        return _prepared_before(config, folder)
    pairs, refusals = _world(config, dataset) if source is None else _recordings(config, dataset, source, media_dir)
    assign_splits([pair.row for pair in pairs], config.valid_fraction)
    left_by_a_killed_run = list(folder.rglob(f"{files.TEMPORARY}*"))
    if pairs:
        _claim(folder, config, source)
    workers = min(config.num_workers, len(pairs) // CLIPS_PER_WORKER)
    work = functools.partial(keep, folder=folder, config=config)
    outcomes = list(tqdm(ordered(work, pairs, workers), total=len(pairs), desc=f"{dataset}: pairs", unit="clip"))
    examples, unusable = _examples(pairs, outcomes, folder, config)
    names = {"train": config.train_file, "valid": config.valid_file}
    reused = sum(outcome.reused for outcome in outcomes)
    low = sum(outcome.upsampled for outcome in outcomes)
    taken = sum(outcome.pictures for outcome in outcomes)
    counts = finish(folder, examples, refusals + unusable, names, len(pairs), reused, pictures=taken, low_rate=low)
    remark = f"; {low} sounds were recorded below {config.sample_rate} Hz" if low else ""
    print(f"{folder}: {taken} pictures{remark}")
    for path in left_by_a_killed_run:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return counts


def _recordings(
    config: PairsConfig, dataset: str, source: Path, media_dir: Path | None
) -> tuple[list[Pair], list[Refusal]]:
    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest of videos, or of sounds with pictures")
    best: dict[str, list[int]] = {}
    refusals: list[Refusal] = []
    if vggsound.table_of(source):
        found = vggsound.read(source, dataset, config, media_dir)
        rows, refusals, best = found.rows, found.refusals, found.best_frames
    else:
        found_rows = read_manifest(source, dataset, require=("Audio|Video",), files_in=media_dir)
        rows = [_with_video(row) for row in found_rows]
    kept, seen = [], set()
    for row in rows:
        reason, detail = _objection(row, seen)
        if reason:
            refusals.append(Refusal(row.uid, reason, detail, str(row.audio) if row.audio else None))
        else:
            seen.add(row.uid)
            kept.append(Pair(row, best_frames=tuple(best.get(row.uid, ()))))
    return kept, refusals


def _with_video(row: Row) -> Row:
    """A video stands for its sound track, and the folder it is in for its label, where nothing else is named."""
    film = row.video or (row.audio if row.audio and manifest.is_video(row.audio) else None)
    folder, slash, _ = row.uid.rpartition("/")
    label = row.label or (folder.rpartition("/")[2].replace("_", " ") if slash else None)
    return replace(row, video=film, audio=row.audio or film, label=label)


def _objection(row: Row, seen: set[str]) -> tuple[str, str]:
    if not files.is_safe_uid(row.uid):
        return "unsafe Uid", "it is no file name inside the folder of features"
    if row.uid in seen:
        return "duplicate Uid", "an earlier row has it; that one is kept"
    if row.audio is None:
        return "no sound", "the row names neither Audio nor Video"
    if row.image is None and row.video is None:
        return "no picture", "the row names neither Image nor Video"
    return "", ""


def _world(config: PairsConfig, dataset: str) -> tuple[list[Pair], list[Refusal]]:
    from sonolume.preprocessors.miniworld import SAMPLE_RATE, world

    if config.sample_rate != SAMPLE_RATE:
        raise UserError(f"preprocess.sample_rate {config.sample_rate}: the miniature world sounds at {SAMPLE_RATE} Hz")
    mini, pairs = config.miniworld, []
    for split, count in (("train", mini.train_scenes), ("valid", mini.valid_scenes)):
        try:
            for scene in world.scenes(split, count, mini.seed, list(mini.kinds), mini.pairs):
                captions = world.captions(scene, mini.captions_per_scene, split)
                label = scene.events[0].kind if len(scene.events) == 1 else None
                row = Row(dataset, scene.uid, captions=captions, label=label, split=split, scene=scene.to_dict())
                pairs.append(Pair(row, scene))
        except ValueError as error:
            raise UserError(f"preprocess.miniworld: {error}") from error
    return pairs, []


def _claim(folder: Path, config: PairsConfig, source: Path | None) -> None:
    """Mark `folder` as made with these settings.

    Raises:
        UserError: it was made with others.
    """
    names = ("sample_rate", "seconds", "frames", "longest_side", "filter_frames")
    settings: dict[str, Any] = {name: getattr(config, name) for name in names}
    settings["input"] = str(source.resolve()) if source else asdict(config.miniworld)  # type: ignore[call-overload]
    path = folder / SETTINGS_FILE
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        changes = [f"{key} {old.get(key)} (now {new})" for key, new in settings.items() if old.get(key) != new]
        if changes:
            raise UserError(f"{folder}: holds pairs made with other settings: {', '.join(changes)}; remove {folder} to "
                            "make them anew, or name another --dataset")  # fmt: skip
    files.write_json(path, settings)


def _examples(
    pairs: Sequence[Pair], outcomes: Sequence[Outcome], folder: Path, config: PairsConfig
) -> tuple[list[Row], list[Refusal]]:
    examples, refusals = [], []
    for pair, outcome in zip(pairs, outcomes, strict=True):
        row = pair.row
        if outcome.reason:
            refusals.append(Refusal(row.uid, outcome.reason, outcome.detail, str(row.audio) if row.audio else None))
            continue
        kept = {"audio": folder / config.audio_dir / f"{row.uid}.wav", "image": folder / config.frames_dir / row.uid}
        examples.append(replace(row, **kept, duration=round(outcome.seconds, 3)))
    return examples, refusals


def _prepared_before(config: PairsConfig, folder: Path) -> dict[str, int]:
    names = {"train": config.train_file, "valid": config.valid_file}
    rows = {split: read_manifest(folder / name) for split, name in names.items() if (folder / name).is_file()}
    if not rows:
        raise UserError(f"{folder}: not prepared yet: name videos, VGGSound or a manifest of pairs with --input")
    print(f"{folder}: {tell({split: len(found) for split, found in rows.items()})}, prepared before (name recordings "
          "with --input to start from them)")  # fmt: skip
    return {split: len(found) for split, found in rows.items()}
