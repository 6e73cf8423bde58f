"""Sounds with captions -> {processed_dir}/{Dataset}: mel features, train.json, valid.json, and a report of refusals.

The sounds are recordings (a folder or a manifest) or scenes of the miniature world. Running again continues where an
interrupted run stopped.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sonolume.config.base import MiniworldConfig, PreprocessConfig
from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import audiocaps, mel_features
from sonolume.preprocessors.mel_features import Clip, Outcome, Plan
from sonolume.preprocessors.refusals import Refusal, finish, tell
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, assign_splits, read_manifest

RAW_FOLDER = "raw"  # inside a data set: where recordings are looked for when no input is named
CLIPS_PER_WORKER = 50  # fewer are not worth the start of a process
TINY_CONFIG = "egs/tta/autoencoderkl/tiny.json"


def prepare(
    config: PreprocessConfig,
    dataset: str,
    source: Path | None = None,
    captions: bool = True,
    audio_dir: Path | None = None,
) -> dict[str, int]:
    """Make a data set ready for training and print what was done.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: a folder or manifest of recordings, or AudioCaps as published. Without it: the miniature world if
            `config.miniworld` has scenes, else {processed_dir}/{dataset}/raw, else the data set as an earlier run left
            it.
        captions: leave out clips without one.
        audio_dir: where the sound files of a manifest lie, if not beside it.

    Returns:
        The number of examples in each split.

    Raises:
        UserError: no input, not one usable row, or features of other settings in the way.
        OSError: the disk is full; the same call goes on from there.
    """
    if dataset != Path(dataset).name or dataset in ("", ".."):
        raise UserError(f"dataset: {dataset!r} is not the name of a folder")
    folder = paths.resolve(config.processed_dir) / dataset
    plan = _plan(config, folder)
    if source is None and not config.miniworld.train_scenes:
        source = folder / RAW_FOLDER
        if not source.exists() and (folder / config.train_file).is_file():
            return _prepared_before(config, folder, plan)
    if source is None:
        rows, clips = _world_rows(config, dataset)
        origin: dict[str, Any] = _world_settings(config.miniworld)
        refusals: list[Refusal] = []
    else:
        rows = _recordings(source, dataset, audio_dir)
        origin = {"input": str(source.resolve()), "audio_dir": str(audio_dir.resolve()) if audio_dir else None}
        rows, refusals = screen(rows, captions)
        clips = [Clip(row.uid, row.audio) for row in rows if row.audio]
    assign_splits(rows, config.valid_fraction)
    left_by_a_killed_run = files.unfinished(folder) + files.unfinished(plan.folder, below=True)
    if rows:
        mel_features.claim(plan.folder, _settings(plan) | origin)
    outcomes = _run(clips, plan, config.num_workers, dataset)
    examples, unusable = _examples(rows, outcomes)
    names = {"train": config.train_file, "valid": config.valid_file}
    reused = sum(outcome.reused for outcome in outcomes)
    counts = finish(folder, examples, refusals + unusable, names, len(outcomes), reused)
    for path in left_by_a_killed_run:
        path.unlink(missing_ok=True)
    return counts


def screen(rows: Sequence[Row], captions: bool = True) -> tuple[list[Row], list[Refusal]]:
    """Sort out rows that no sound file needs to be opened for: bad or repeated Uids, no caption, no sound."""
    kept, refusals, seen = [], [], set()
    for row in rows:
        reason, detail = _objection(row, seen, captions)
        if reason:
            refusals.append(Refusal(row.uid, reason, detail, str(row.audio) if row.audio else None))
        else:
            seen.add(row.uid)
            kept.append(row)
    return kept, refusals


def _objection(row: Row, seen: set[str], captions: bool) -> tuple[str, str]:
    if not files.is_safe_uid(row.uid):
        return "unsafe Uid", "it is no file name inside the folder of features"
    if row.uid in seen:
        return "duplicate Uid", "an earlier row has it; that one is kept"
    if row.audio is None:
        return "no sound", "the row names neither Audio nor Video"
    if captions and not row.captions:
        return "no caption", ""
    return "", ""


def _plan(config: PreprocessConfig, folder: Path) -> Plan:
    try:
        return Plan(folder / config.melspec_dir, MelSettings.of(config), config.frames, config.windows)
    except ValueError as error:
        raise UserError(f"preprocess: {error}") from error


def _settings(plan: Plan) -> dict[str, Any]:
    return asdict(plan.mel) | {"frames": plan.frames, "windows": plan.windows}


def _world_settings(world: MiniworldConfig) -> dict[str, Any]:
    from sonolume.preprocessors.miniworld import WORLD

    return {"input": "miniworld", "world": WORLD, "seed": world.seed, "kinds": list(world.kinds), "pairs": world.pairs}


def _world_rows(config: PreprocessConfig, dataset: str) -> tuple[list[Row], list[Clip]]:
    from sonolume.preprocessors.miniworld import SAMPLE_RATE, world

    if config.sample_rate != SAMPLE_RATE:
        raise UserError(f"preprocess.sample_rate {config.sample_rate}: the miniature world sounds at {SAMPLE_RATE} Hz")
    mini = config.miniworld
    rows, clips = [], []
    for split, count in (("train", mini.train_scenes), ("valid", mini.valid_scenes)):
        try:
            for scene in world.scenes(split, count, mini.seed, list(mini.kinds), mini.pairs):
                captions = world.captions(scene, mini.captions_per_scene, split)
                rows.append(Row(dataset, scene.uid, captions=captions, split=split, scene=scene.to_dict()))
                clips.append(Clip(scene.uid, scene))
        except ValueError as error:
            raise UserError(f"preprocess.miniworld: {error}") from error
    return rows, clips


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
    return [replace(row, audio=row.audio or row.video) for row in rows]  # the sound track, where nothing else is named


def _run(clips: list[Clip], plan: Plan, num_workers: int, dataset: str) -> list[Outcome]:
    workers = min(num_workers, len(clips) // CLIPS_PER_WORKER)
    outcomes = mel_features.compute(clips, plan, workers)
    return list(tqdm(outcomes, total=len(clips), desc=f"{dataset}: mel features", unit="clip", disable=not clips))


def _examples(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> tuple[list[Row], list[Refusal]]:
    """One example per window, with the length of its features as Duration."""
    examples, refusals = [], []
    for row, outcome in zip(rows, outcomes, strict=True):
        if outcome.reason:
            refusals.append(Refusal(row.uid, outcome.reason, outcome.detail, str(row.audio)))
        examples += [replace(row, uid=uid, duration=round(seconds, 3)) for uid, seconds in outcome.windows]
    return examples, refusals


def _prepared_before(config: PreprocessConfig, folder: Path, plan: Plan) -> dict[str, int]:
    """A data set that came ready, or whose recordings were named in an earlier run."""
    if (plan.folder / mel_features.SETTINGS_FILE).is_file():
        mel_features.check_settings(plan.folder, _settings(plan))
    names = {"train": config.train_file, "valid": config.valid_file}
    rows = {split: read_manifest(folder / name) for split, name in names.items() if (folder / name).is_file()}
    counts = {split: len(found) for split, found in rows.items()}
    listed = [row for found in rows.values() for row in found]
    unsafe = next((row.uid for row in listed if not files.is_safe_uid(row.uid)), None)
    if unsafe is not None:
        raise UserError(f"{folder}: Uid {unsafe!r} is no file name inside the folder of features: rename or remove it")
    without = [row.uid for row in listed if not plan.path(row.uid).is_file()]
    if listed and len(without) == len(listed):
        raise UserError(
            f"{plan.folder}: holds no features of the {len(listed)} clips of {folder}, such as {without[0]}.npy; put "
            "them there, or name the recordings with --input"
        )
    print(f"{folder}: {tell(counts)}, prepared before (name recordings with --input to start from them)")
    if without:
        print(f"{folder}: {len(without):,} of {len(listed):,} have no features ({without[0]} ...): training skips them")
    return counts
