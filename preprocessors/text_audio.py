"""Sounds with captions -> {processed_dir}/{Dataset}: mel features, train.json, valid.json, and report.json.

The sounds are recordings (a folder or a manifest) or scenes of the miniature world. A second run continues where an
interrupted one stopped.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonolume.config.base import PreprocessConfig
from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import audiocaps, mel_features, prepared, report
from sonolume.preprocessors.mel_features import Outcome, Plan
from sonolume.preprocessors.report import LeftOut
from sonolume.preprocessors.sources import screen, world_rows
from sonolume.utils import files
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, assign_splits, read_manifest

RAW_FOLDER = "raw"  # inside a data set: recordings that are read without --input
TINY_CONFIG = "egs/tta/autoencoderkl/tiny.json"


def prepare(
    config: PreprocessConfig,
    dataset: str,
    source: Path | None = None,
    captions: bool = True,
    audio_dir: Path | None = None,
) -> dict[str, int]:
    """Prepare a data set for training, print a summary, and count the examples of each split.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: a folder or manifest of recordings, or AudioCaps as published. By default the miniature world if
            `config.miniworld` has scenes, else {processed_dir}/{dataset}/raw, else the data set that an earlier run
            prepared.
        captions: leave out clips without one.
        audio_dir: folder of the sound files of a manifest (default: the manifest's).

    Raises:
        UserError: there is no input or no usable row, or the folder holds features of other settings.
        OSError: the disk is full; the same call continues from there.
    """
    folder = prepared.dataset_folder(config, dataset)
    plan = _plan(config, folder)
    if source is None and not config.miniworld.train_scenes:
        source = folder / RAW_FOLDER
        if not source.exists() and (folder / config.train_file).is_file():
            return _prepared_before(config, folder, plan)
    left_out: list[LeftOut] = []
    if source is None:
        rows, origin = world_rows(config, dataset), _world_settings(config)
    else:
        rows, left_out = screen(_recordings(source, dataset, audio_dir), captions)
        origin = {"input": str(source.resolve()), "audio_dir": str(audio_dir.resolve()) if audio_dir else None}
    assign_splits(rows, config.valid_fraction)
    unfinished = files.unfinished(folder) + files.unfinished(plan.folder, below=True)  # by a run that was killed
    outcomes = mel_features.compute(rows, plan, origin, config.num_workers)
    examples, unusable = _examples(rows, outcomes)
    reused = sum(outcome.reused for outcome in outcomes)
    names = prepared.manifest_names(config)
    counts = report.write(folder, examples, left_out + unusable, names, len(outcomes), reused)
    for path in unfinished:
        path.unlink(missing_ok=True)
    return counts


def _plan(config: PreprocessConfig, folder: Path) -> Plan:
    try:
        return Plan(folder / config.melspec_dir, MelSettings.of(config), config.frames, config.windows)
    except ValueError as error:
        raise UserError(f"preprocess: {error}") from error


def _world_settings(config: PreprocessConfig) -> dict[str, Any]:
    from sonolume.preprocessors.miniworld import WORLD

    mini = config.miniworld
    return {"input": "miniworld", "world": WORLD, "seed": mini.seed, "kinds": list(mini.kinds), "pairs": mini.pairs}


def _recordings(source: Path, dataset: str, audio_dir: Path | None) -> list[Row]:
    if not source.exists():
        raise UserError(
            f"{source}: no such folder or manifest. Put recordings there, each with its captions in a .txt file of the "
            f"same name or all in a captions.csv (Uid, Audio, Caption), or name yours with --input; "
            f"{TINY_CONFIG} needs no recordings"
        )
    if audiocaps.tables(source):
        return audiocaps.read(source, dataset, audio_dir)
    rows = read_manifest(source, dataset, require=("Audio|Video",), files_in=audio_dir)
    return [replace(row, audio=row.audio or row.video) for row in rows]


def _examples(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> tuple[list[Row], list[LeftOut]]:
    """One example per window, with the length of its features as Duration."""
    examples, left_out = [], []
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.reason:
            left_out.append(LeftOut.of(row, outcome.reason, outcome.detail))
        examples += [replace(row, uid=uid, duration=round(seconds, 3)) for uid, seconds in outcome.windows]
    return examples, left_out


def _prepared_before(config: PreprocessConfig, folder: Path, plan: Plan) -> dict[str, int]:
    """Count the examples of a data set that was prepared by an earlier run, or elsewhere."""
    if (plan.folder / mel_features.SETTINGS_FILE).is_file():
        plan.check(plan.settings())
    splits = prepared.read_all(config, folder)
    rows = [row for found in splits.values() for row in found]
    without = [row.uid for row in rows if not plan.path(row.uid).is_file()]
    if rows and len(without) == len(rows):
        raise UserError(
            f"{plan.folder}: holds no features of the {len(rows)} clips of {folder}, such as {without[0]}.npy; put "
            "them there, or name the recordings with --input"
        )
    counts = prepared.print_counts(folder, splits)
    if without:
        print(f"{folder}: {len(without):,} of {len(rows):,} have no features ({without[0]} ...): training skips them")
    return counts
