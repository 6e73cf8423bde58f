"""Sounds with captions -> {processed_dir}/{Dataset}: mel features, train.json, valid.json, and report.json.

The sounds are recordings (a folder or a manifest) or scenes of the miniature world. A second run continues where an
interrupted one stopped.
"""

from dataclasses import replace
from pathlib import Path

from sonolume.config.base import PreprocessConfig
from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import audiocaps, mel_features, prepared
from sonolume.preprocessors.mel_features import Plan
from sonolume.preprocessors.sources import screen, world_rows
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, assign_splits, read_manifest

RAW_FOLDER = "raw"  # inside a data set: recordings that are read without --input
TINY_CONFIG = "egs/tta/autoencoderkl/tiny.json"


def prepare(
    config: PreprocessConfig, dataset: str, source: Path | None = None, captions: bool = True,
    audio_dir: Path | None = None,
) -> dict[str, int]:  # fmt: skip
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
    try:
        plan = Plan(folder / config.melspec_dir, MelSettings.of(config), config.frames, config.windows)
    except ValueError as error:
        raise UserError(f"preprocess: {error}") from error
    if source is None and not config.miniworld.train_scenes:
        source = folder / RAW_FOLDER
        if not source.exists() and (folder / config.train_file).is_file():  # prepared by an earlier run, or elsewhere
            if (plan.folder / mel_features.SETTINGS_FILE).is_file():
                plan.check(plan.settings())
            return prepared.count_examples(config, dataset, lambda row: plan.path(row.uid).is_file(), "features")
    if source is None:
        from sonolume.preprocessors.miniworld import WORLD  # recordings do not need it

        mini = config.miniworld
        rows, left_out = world_rows(config, dataset), []
        origin = {"input": "miniworld", "world": WORLD, "seed": mini.seed}
        origin |= {"kinds": list(mini.kinds), "pairs": mini.pairs}
    else:
        rows, left_out = screen(_recordings(source, dataset, audio_dir), captions)
        origin = {"input": str(source.resolve()), "audio_dir": str(audio_dir.resolve()) if audio_dir else None}
    assign_splits(rows, config.valid_fraction)
    with prepared.cleanup(folder):
        outcomes = mel_features.compute(rows, plan, origin, config.num_workers)
        return prepared.write(config, dataset, outcomes, left_out)


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
