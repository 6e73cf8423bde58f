"""Rows to prepare, and prepared data sets: {processed_dir}/{dataset} with settings, manifests and a report."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from sonolume.config.base import DataConfig
from sonolume.utils import audio, files, manifest, names, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.storage import SHARDS_FILE
from sonolume.utils.text import printable

REPORT_FILE, FAILED_FILE = "report.json", "report_failed.json"
SETTINGS_FILE = "settings.json"  # of features, in their folder
RESERVED = (  # no Split gets one of these names: written by preparations, or read from a folder of recordings
    REPORT_FILE, FAILED_FILE, SETTINGS_FILE, SHARDS_FILE, "pairs.json", "sounds.json", "speech.json",
    *manifest.FOLDER_MANIFESTS,
)  # fmt: skip
PROGRESS_DELAY = 2.0  # seconds after which a bar appears
LISTED_SPLITS = 10  # in a message


@dataclass(frozen=True)
class LeftOut:
    """A row that is not prepared, and why."""

    uid: str
    reason: str
    detail: str = ""
    audio: str | None = None

    @classmethod
    def of(cls, row: Row, reason: str, detail: str = "") -> "LeftOut":
        return cls(row.uid, reason, detail, str(row.audio) if row.audio else None)


@dataclass(frozen=True)
class Outcome:
    """Result of one row: the examples made of it, or the reason why it was left out."""

    examples: tuple[Row, ...] = ()
    left_out: LeftOut | None = None
    reused: bool = False  # an earlier run had made the examples
    counts: dict[str, int] = field(default_factory=dict)  # numbers that the report sums up


def dataset_folder(config: DataConfig, dataset: str) -> Path:
    """Return {processed_dir}/{dataset}; raise a UserError unless the name is that of a single folder."""
    if dataset != Path(dataset).name or dataset in ("", ".."):
        raise UserError(f"dataset: {dataset!r} is not the name of a folder")
    return paths.resolve(config.processed_dir) / dataset


def is_sharded(config: DataConfig, dataset: str) -> bool:
    """Whether a data set was prepared in shards."""
    return (dataset_folder(config, dataset) / SHARDS_FILE).is_file()


def cache_folder(config: DataConfig, datasets: Sequence[str]) -> Path:
    """Return the folder of the arrays that training computes from these data sets and keeps."""
    return paths.resolve(config.processed_dir) / datasets[0] / "cache"


def world_rows(config: DataConfig, dataset: str, labels: bool = False) -> list[Row]:
    """Return scenes of the miniature world as rows without files; with `labels`, the kind of a single event is one."""
    from sonolume.preprocessors.miniworld import SAMPLE_RATE, world

    if config.sample_rate != SAMPLE_RATE:
        raise UserError(f"preprocess.sample_rate {config.sample_rate}: the miniature world has {SAMPLE_RATE} Hz")
    mini, rows = config.miniworld, []
    try:
        for split, count in (("train", mini.train_scenes), ("valid", mini.valid_scenes)):
            scenes = world.scenes(split, count, mini.seed, list(mini.kinds), mini.pairs)
            for scene in tqdm(scenes, f"{dataset}: {split} scenes", count, unit="scene", delay=PROGRESS_DELAY):
                captions = world.captions(scene, mini.captions_per_scene, split)
                label = scene.events[0].kind if labels and len(scene.events) == 1 else None
                rows.append(Row(dataset, scene.uid, None, captions, label=label, split=split, scene=scene.to_dict()))
    except ValueError as error:
        raise UserError(f"preprocess.miniworld: {error}") from error
    return rows


def load_wave(row: Row, sample_rate: int, seconds: float) -> np.ndarray:
    """Load `seconds` of the sound of a row at most, or render its scene, float32 (n,); raises as `audio.load`."""
    if row.audio is not None:
        return audio.load(row.audio, sample_rate, seconds=seconds)
    if row.scene is None:
        raise UserError(f"{row.dataset}: {row.uid} has neither Audio nor a Scene")
    from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

    return world.render(world.Scene.from_dict(row.scene))


def is_outdated(row: Row, path: Path) -> bool:
    """Whether the recording of a row changed after `path` was made of it, or is gone."""
    return row.audio is not None and is_newer(row.audio, path)


def is_newer(source: Path, path: Path) -> bool:
    """Whether a file changed after `path` was made of it, or is gone."""
    times = source.stat() if source.is_file() else None
    # `cp -p` and `tar` keep an old modification time, but not the change time
    return times is None or max(times.st_mtime_ns, times.st_ctime_ns) > path.stat().st_mtime_ns


def is_low_rate(row: Row, sample_rate: int) -> bool:
    """Whether a sound was recorded at a lower sample rate; unknown, thus False, for what PyAV decodes."""
    try:
        return row.audio is not None and soundfile.info(audio.encoded(row.audio)).samplerate < sample_rate
    except soundfile.SoundFileError:
        return False


def stored_seconds(sound: Path) -> float:
    """Duration of a prepared sound."""
    return round(soundfile.info(audio.encoded(sound)).duration, 3)


def screen(rows: Sequence[Row], captions: bool = False, images: bool = False) -> tuple[list[Row], list[LeftOut]]:
    """Sort out rows without opening a file; each needs a sound, and a caption or a picture if that is asked for."""
    kept: dict[str, Row] = {}
    left_out: list[LeftOut] = []
    for row in rows:
        problems = {
            ("unsafe Uid", "not a file name inside the data set"): not files.is_safe_uid(row.uid),
            ("duplicate Uid", "an earlier row has it; that one is kept"): row.uid in kept,
            ("no sound", "the row names neither Audio nor Video"): row.audio is None,
            ("no caption", ""): captions and not row.captions,
            ("no picture", "the row names neither Image nor Video"): images and not (row.image or row.video),
        }
        problem = next((problem for problem, occurs in problems.items() if occurs), None)
        if problem:
            left_out.append(LeftOut.of(row, *problem))
        else:
            kept[row.uid] = row
    return list(kept.values()), left_out


def rename_colliding(rows: Sequence[Row], suffixes: Sequence[str]) -> dict[str, str]:
    """Rename rows, in place, whose files would overwrite those of another; return old Uid -> new one.

    Args:
        suffixes: of the files and folders that are named {uid}{suffix}; see `names.distinct_uids`.
    """
    uids = [row.uid for row in rows]
    renamed = {}
    for row, uid in zip(rows, names.distinct_uids(uids, suffixes), strict=True):
        if uid != row.uid:
            renamed[row.uid] = row.uid = uid
    return renamed


def check_input(config: DataConfig, dataset: str, source: Path) -> None:
    """Raise a UserError if the data set would overwrite the manifest from which it is prepared."""
    folder, outputs = dataset_folder(config, dataset), {*_manifest_names(config).values(), REPORT_FILE, FAILED_FILE}
    if source.is_file() and source.name in outputs and source.resolve().parent == folder.resolve():
        raise UserError(f"--input {source}: would be overwritten: rename it, or choose another --dataset")


@contextmanager
def cleanup(folder: Path) -> Iterator[None]:
    """Remove the temporary files of a run that was killed, once the block has succeeded."""
    unfinished = files.unfinished(folder)
    yield
    for path in unfinished:
        files.remove(path)


def check_settings(path: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Raise a UserError, which names each difference and the remedy, unless the stored settings equal `settings`."""
    old, new = _flat(files.read_json(path, f"the settings of what was prepared there; {remedy}")), _flat(settings)
    changes = [f"{key} {old.get(key)} (now {value})" for key, value in new.items() if old.get(key) != value]
    if changes:
        raise UserError(f"{path.parent}: prepared with other settings: {', '.join(changes)}; {remedy}")


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those of the entry "input", the scenes of the miniature world, beside the others."""
    scenes = settings.get("input")
    return {**settings, **scenes, "input": "miniworld"} if isinstance(scenes, dict) else dict(settings)


def store_settings(path: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Write the settings of a folder; those of an earlier run must be the same, see `check_settings`."""
    if path.is_file():
        check_settings(path, settings, remedy)
    files.write_json(path, settings)


def check_stored(config: DataConfig, path: Path, settings: Mapping[str, Any]) -> None:
    """Check that stored data was made with the settings of this training, as far as their file `path` names them.

    Args:
        settings: those of the config; the scenes are added for data of the miniature world.

    Raises:
        UserError: a setting differs; names both values.
    """
    if not path.is_file():  # prepared elsewhere
        return
    stored = files.read_json(path)
    scenes = stored["input"] if isinstance(stored.get("input"), dict) else stored  # of pairs, of mels
    found, wanted, mini = stored | scenes, dict(settings), config.miniworld
    if mini.train_scenes and (scenes is not stored or stored.get("input") == "miniworld"):
        wanted |= {name: value for name, value in asdict(mini).items() if name in scenes}
    wrong = [f"{name} {found[name]}, not {value}" for name, value in wanted.items() if found.get(name, value) != value]
    if wrong:
        raise UserError(f"{path.parent}: prepared with {'; '.join(wrong)}: train with the same settings, or prepare "
                        "the data again under another name of the data set")  # fmt: skip


def write(
    config: DataConfig, dataset: str, outcomes: Sequence[Outcome], screened_out: Sequence[LeftOut],
    renamed: Mapping[str, str], **facts: int,
) -> dict[str, int]:  # fmt: skip
    """Write the manifests and the report of a data set, print a summary, and count the examples of each split.

    Args:
        screened_out: rows that were left out before any file was opened.
        renamed: result of `rename_colliding`.
        facts: more entries of the report.

    Raises:
        UserError: there is no usable clip, or none to train on; a report is written nevertheless.
    """
    folder = dataset_folder(config, dataset)
    examples = [row for outcome in outcomes for row in outcome.examples]
    left_out = [*screened_out, *(outcome.left_out for outcome in outcomes if outcome.left_out)]
    reused = sum(outcome.reused for outcome in outcomes)
    counts = dict(Counter(str(row.split) for row in examples))
    reasons = dict(Counter(one.reason for one in left_out).most_common())
    has_manifests = any((folder / name).is_file() for name in _manifest_names(config).values())  # keep their report
    path = folder / (FAILED_FILE if has_manifests and not examples else REPORT_FILE)
    manifests = _split_files(config, counts)
    content = {"examples": counts, "files": manifests, "renamed": renamed, "refused": reasons, **facts}
    files.write_json(path, content | {"refusals": [asdict(one) for one in left_out]})
    summary = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if not examples:
        first = f" (the first: {left_out[0].detail})" if left_out and left_out[0].detail else ""
        raise UserError(f"{folder}: not one usable clip ({summary}); see {path}{first}")
    if set(counts) == {"valid"}:
        raise UserError(f"{folder}: all clips went to validation: add clips, or give some the Split train")
    by_split: dict[str, list[Row]] = {split: [] for split in manifests}
    for row in examples:
        by_split[str(row.split)].append(row)
    for split, rows in by_split.items():
        manifest.write_manifest(rows, folder / manifests[split])
    _print(f"{folder}: {_format_counts(counts)}" + (f" ({reused} clips were there already)" if reused else ""))
    moved = [f"{split} is {name}" for split, name in manifests.items()
             if split not in _manifest_names(config) and name != f"{split}.json"]  # fmt: skip
    if moved:
        _print(f"{folder}: files of splits: {', '.join(moved[:LISTED_SPLITS])}; all of them in {path}")
    if renamed:
        old, new = next(iter(renamed.items()))
        _print(f"{folder}: renamed {len(renamed)}, whose files would overwrite others: {old} is {new} ...; see {path}")
    if not counts.get("valid"):
        _print(f"{folder}: nothing to validate on: add clips, or give some the Split valid")
    if left_out:
        _print(f"{folder}: left out {len(left_out)}: {summary}; see {path}")
    if "missing" in reasons:
        _print(f"{folder}: {reasons['missing']:,} of {len(outcomes):,} clips are missing: listed in {REPORT_FILE}")
    if "needs PyAV" in reasons:
        _print(f"{folder}: m4a, aac and videos are read with PyAV: {audio.PYAV_REMEDY}, then run again")
    return counts


def read_split(
    config: DataConfig, datasets: Sequence[str], split: str, is_complete: Callable[[Row], bool], missing: str,
    captions: bool = False,
) -> list[Row]:  # fmt: skip
    """Read the rows of a split of all data sets that training can use; print how many are incomplete.

    Args:
        split: "train", "valid", or another one, such as "test".
        is_complete: whether the files of a row exist.
        missing: what incomplete rows lack, such as "features".
        captions: skip rows without a caption.

    Raises:
        UserError: a data set is not prepared (the message names the command), a Uid is unsafe, or no row is usable.
    """
    name = _manifest_names(config).get(split, f"{split}.json")
    rows: list[Row] = []
    for dataset in datasets:
        if is_sharded(config, dataset):
            raise UserError(f"{dataset_folder(config, dataset)}: is in shards, which this recipe cannot read: prepare "
                            "the data with preprocess.storage=files under another name")  # fmt: skip
        path = _manifest_path(config, dataset, name)
        found = [row for row in manifest.read_manifest(path, dataset) if row.captions or not captions]
        unsafe = next((row.uid for row in found if not files.is_safe_uid(row.uid)), None)
        if unsafe is not None:
            raise UserError(f"{path}: Uid {unsafe!r} is not a file name inside the data set: rename or remove it")
        complete = [is_complete(row) for row in found]
        rows += itertools.compress(found, complete)
        if not all(complete) and os.environ.get("LOCAL_RANK", "0") == "0":
            first, count = found[complete.index(False)].uid, complete.count(False)
            _print(f"{path}: left out {count:,} of {len(found):,} rows without {missing}, such as {first}")
    if not rows and split == "train":
        needed = f"{missing}{' and a caption' if captions else ''}: prepare the recordings with --input"
        raise UserError(f"{', '.join(datasets)}: no usable rows in {name}, each needs {needed}, and see {REPORT_FILE}")
    return rows


def check_prepared(config: DataConfig, datasets: Sequence[str]) -> None:
    """Raise a UserError, as `read_split`, if one of the data sets lacks a manifest for training or validation."""
    for dataset in datasets:
        for name in () if is_sharded(config, dataset) else _manifest_names(config).values():
            _manifest_path(config, dataset, name)


def _manifest_path(config: DataConfig, dataset: str, name: str) -> Path:
    """Return the file of a manifest; a UserError names the command that writes it if there is none."""
    path = paths.resolve(config.processed_dir) / dataset / name
    if not path.is_file():
        own = "" if config.miniworld.train_scenes else " and --input FOLDER; tiny.json needs no recordings"
        raise UserError(f"{path}: no such file: prepare the data first: run_preprocess.sh, with the same --config{own}")
    return path


def count_examples(
    config: DataConfig, dataset: str, is_complete: Callable[[Row], bool], missing: str
) -> dict[str, int]:
    """Count and print the examples of each split of a data set that was prepared before; see `read_split`."""
    folder = dataset_folder(config, dataset)
    if not (folder / config.train_file).is_file():
        raise UserError(f"{folder}: not prepared yet: name a folder or manifest of recordings with --input")
    splits = [split for split, name in _manifest_names(config).items() if (folder / name).is_file()]
    counts = {split: len(read_split(config, [dataset], split, is_complete, missing)) for split in splits}
    _print(f"{folder}: {_format_counts(counts)}, prepared before (name recordings with --input to start from them)")
    return counts


def _print(line: str) -> None:
    """Print a line on stdout, with Uids, Splits and folders made printable."""
    print(printable(line))


def _manifest_names(config: DataConfig) -> dict[str, str]:
    return {"train": config.train_file, "valid": config.valid_file}


def _split_files(config: DataConfig, splits: Iterable[str]) -> dict[str, str]:
    """Choose a manifest for "train", "valid" and each of the splits; none overwrites a report or another manifest."""
    found = _manifest_names(config)
    others = sorted(set(splits) - found.keys())
    taken = {name.removesuffix(".json") for name in (*found.values(), *RESERVED)}
    stems = names.distinct([files.safe_name(split) for split in others], taken)
    return found | {split: f"{stem}.json" for split, stem in zip(others, stems, strict=True)}


def _format_counts(counts: Mapping[str, int]) -> str:
    listed = [f"{count} {split}" for split, count in sorted(counts.items())]
    further = len(listed) - LISTED_SPLITS
    return ", ".join(listed[:LISTED_SPLITS]) + (f" and {further} more splits" if further > 0 else "")
