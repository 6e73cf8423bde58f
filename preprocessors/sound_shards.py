"""Sounds with captions in shards, for data sets that are too large for one file per clip.

    {processed_dir}/{dataset}/shards.json             settings, and the folders of each split
    .../shards/rows_of_train-{hash}/                  the manifest, column `row`
    .../shards/mels_of_train-{hash}/                  `row` and `mel`, (frames, bands) of each clip, ragged

The manifest is divided first, by one process. The mels are a stage: any number of processes compute them, each its part
of the shards. Clips are not renamed: no file has the name of one.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sonolume.config.base import PreprocessConfig
from sonolume.config.part import Part
from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import prepared, stages, text_audio
from sonolume.preprocessors.prepared import REPORT_FILE, LeftOut, is_sharded
from sonolume.preprocessors.stages import Progress, Stage, compute, in_threads, sizes_of
from sonolume.preprocessors.text_audio import Plan
from sonolume.utils import files
from sonolume.utils.audio import SoundError
from sonolume.utils.cache import locked
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, assign_splits, record, row_of
from sonolume.utils.shards import Column, Shards, ShardWriter
from sonolume.utils.storage import SHARDS_FILE
from sonolume.utils.text import printable

FOLDER = "shards"
ROW, MEL = "row", "mel"  # columns
CACHE_VERSION = 1  # raise it to compute all mels again


class Rows(Sequence[Row]):
    """Rows of a column `row`, parsed when they are read.

    Args:
        folder: {processed_dir}, from which the paths in rows start.
    """

    def __init__(self, column: Column, folder: Path) -> None:
        self.column, self.folder = column, folder.resolve()

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        entry = self.column.json(index)
        return row_of(entry, self.folder, entry["Dataset"])


def prepare(
    config: PreprocessConfig, dataset: str, source: Path | None = None, captions: bool = True,
    audio_dir: Path | None = None, keep_mels: bool = True,
) -> None:  # fmt: skip
    """Divide a manifest into shards, unless an earlier run did, and compute the mels of the current part.

    Args: as of `text_audio.prepare`; `keep_mels` false computes no mels.

    Raises:
        UserError: there is no input or no usable row, or the data set was prepared with other settings.
    """
    folder = prepared.dataset_folder(config, dataset)
    if source is None and not config.miniworld.train_scenes and not is_sharded(config, dataset):
        source = folder / text_audio.RAW_FOLDER
    with locked(folder / ".lock", f"reading the manifest of {folder}"):
        if source is not None or config.miniworld.train_scenes:
            _divide(config, dataset, source, captions, audio_dir)
    if not keep_mels:
        return
    opened = {split: mels(config, dataset, split) for split in splits(config, dataset)}
    if stages.is_complete():
        report(config, dataset, opened)


def report(config: PreprocessConfig, dataset: str, opened: Mapping[str, Shards]) -> None:
    """Write and print the number of examples, and of clips that are left out, with the reasons.

    Args:
        opened: the shards of each split.

    Raises:
        UserError: there is nothing to train on.
    """
    folder = prepared.dataset_folder(config, dataset)
    counts = {split: len(shards) for split, shards in opened.items()}
    reasons = Counter(reason for shards in opened.values() for reason in shards.left_out.elements())
    for split in opened:
        reasons += manifest(config, dataset, split).column.shards.left_out
    files.write_json(folder / REPORT_FILE, {"examples": counts, "refused": dict(reasons.most_common())})
    if not counts.get("train"):
        summary = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        first = next((f", the first: {detail}" for detail in _details_of_left_out(folder)), "")
        raise UserError(f"{folder}: not one usable clip to train on ({summary or 'all are for validation'}{first}): "
                        "mend the recordings, remove this folder, and prepare again")  # fmt: skip
    print(printable(f"{folder}: {', '.join(f'{count:,} {split}' for split, count in sorted(counts.items()))}"))
    if reasons:
        summary = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        print(f"{folder}: left out {reasons.total():,}: {summary}; each is listed in the done.json of its shard")


def _details_of_left_out(folder: Path) -> Iterator[str]:
    """Messages on the clips of a data set that were left out."""
    for path in sorted((folder / FOLDER).glob("*/*.done.json")):
        yield from (one["detail"] for one in files.read_json(path)["left_out"] if one["detail"])


def mels(config: PreprocessConfig, dataset: str, split: str) -> Shards:
    """Open the mels of a split, and compute those that are missing: columns `row` and `mel` (frames, bands), ragged.

    Raises:
        UserError: the data set was prepared with other mel settings.
    """
    folder = prepared.dataset_folder(config, dataset)
    prepared.check_stored(config, folder / SHARDS_FILE, _settings(config))
    return compute(_mel_stage(config, dataset, split), folder / FOLDER)


def manifest(config: PreprocessConfig, dataset: str, split: str) -> Rows:
    """Open the manifest of a split, with clips that cannot be used."""
    folder = prepared.dataset_folder(config, dataset)
    return Rows(Shards(folder / FOLDER / splits(config, dataset)[split]).column(ROW), folder.parent)


@contextmanager
def mels_of_shard(
    config: PreprocessConfig, dataset: str, split: str, shard: int, writer: ShardWriter
) -> Iterator[Shards]:
    """Compute the mels of one shard for the block only; `writer` gets the rows that are left out."""
    stage = _mel_stage(config, dataset, split)
    temporary = files.temporary_path(prepared.dataset_folder(config, dataset) / FOLDER / "mels")
    rows = manifest(config, dataset, split).column.shards.rows_of(shard)
    try:
        with ShardWriter(temporary, 0) as mel_writer:
            stage.write(mel_writer, rows, lambda count: None)
            mel_writer.finish()
            writer.left_out += mel_writer.left_out
        yield Shards.of_done(temporary, 1)
    finally:
        files.remove(temporary)


def mel_key(config: PreprocessConfig, dataset: str, split: str) -> str:
    """Everything that determines the mels of a split, for the key of features computed from them."""
    return _mel_stage(config, dataset, split).folder(Path()).name


def _divide(
    config: PreprocessConfig, dataset: str, source: Path | None, captions: bool, audio_dir: Path | None
) -> None:
    """Write the manifest of each split in shards, and then the settings; nothing if an earlier run did."""
    folder = prepared.dataset_folder(config, dataset)
    settings = _settings(config) | {"shard_rows": config.shard_rows, "shuffle_seed": config.shuffle_seed}
    settings |= text_audio.origin_of(config, source, audio_dir)
    if source is not None and source.is_file():
        settings["modified"] = source.stat().st_mtime_ns
    if is_sharded(config, dataset):
        remedy = f"remove {folder}, or choose another name of the data set"
        prepared.check_settings(folder / SHARDS_FILE, settings, remedy)
        return
    if (folder / config.train_file).is_file():
        raise UserError(f"{folder}: was prepared with preprocess.storage=files: choose another name of the data set")
    rows, left_out = text_audio.read_input(config, dataset, source, captions, audio_dir)
    assign_splits(rows, config.valid_fraction)
    if config.shuffle_seed:
        random.Random(config.shuffle_seed).shuffle(rows)
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(str(row.split), []).append(row)
    places = {}
    for split, some in by_split.items():
        stage = _row_stage(some, left_out if split == "train" else [], split, settings, folder)
        with stages.only(Part()):  # all of it
            compute(stage, folder / FOLDER)
        places[split] = stage.folder(folder / FOLDER).name
    files.write_json(folder / SHARDS_FILE, settings | {"rows": places})


def _row_stage(rows: list[Row], left_out: list[LeftOut], split: str, settings: dict[str, Any], folder: Path) -> Stage:
    """Stage of the manifest: one value of JSON for each row."""
    root = folder.parent.resolve()

    def write(writer: ShardWriter, some: range, progress: Progress) -> None:
        writer.append_json(ROW, (record(rows[number], root) for number in some))
        if some.start == 0:
            writer.left_out += [asdict(one) for one in left_out]
        progress(len(some))

    key = [CACHE_VERSION, settings, [row.uid for row in rows]]
    return Stage(f"rows of {split}", key, lambda: sizes_of(len(rows), settings["shard_rows"]), write)


def _mel_stage(config: PreprocessConfig, dataset: str, split: str) -> Stage:
    """Stage of the log-mels of one split; those of clips that cannot be used are left out."""
    folder = prepared.dataset_folder(config, dataset)
    plan = Plan(folder, MelSettings.of(config), config.frames, config.windows)
    rows = manifest(config, dataset, split)

    def load(row: Row) -> tuple[Row, list[tuple[Row, np.ndarray]] | SoundError]:
        try:
            return row, text_audio.windows(row, plan)
        except SoundError as error:
            return row, error

    def write(writer: ShardWriter, some: range, progress: Progress) -> None:
        for row, found in in_threads(load, (rows[number] for number in some)):
            if isinstance(found, SoundError):
                writer.leave_out(**asdict(LeftOut.of(row, found.reason, str(found))))
            else:
                writer.append_json(ROW, (record(example, rows.folder) for example, _ in found))
                writer.append_ragged(MEL, [np.ascontiguousarray(mel.T) for _, mel in found])
            progress(1)

    key = [CACHE_VERSION, splits(config, dataset)[split], _settings(config)]
    return Stage(f"mels of {split}", key, rows.column.shards.shard_rows.tolist, write)


def splits(config: PreprocessConfig, dataset: str) -> dict[str, str]:
    """Splits of a data set in shards -> names of the folders with their rows."""
    return files.read_json(prepared.dataset_folder(config, dataset) / SHARDS_FILE)["rows"]


def _settings(config: PreprocessConfig) -> dict[str, Any]:
    """Settings of the mels."""
    return asdict(MelSettings.of(config)) | {"frames": config.frames, "windows": config.windows}
