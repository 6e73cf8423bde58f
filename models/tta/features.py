"""Mel features: datasets of prepared ones, addressed by (epoch, index), and the settings that a model stores."""

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from sonolume.config.base import PreprocessConfig, Storage
from sonolume.config.options import PreprocessOptions
from sonolume.modules.mel import MEL_FLOOR, MelSettings
from sonolume.preprocessors import prepared, sound_shards
from sonolume.preprocessors.sound_shards import Rows
from sonolume.preprocessors.stages import sizes_of
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.shards import Column, Shards, ShardWriter

MEL_FILE = "mel.json"  # of a model: fields of `MelSettings`; of an autoencoder also "frames"
BATCH_SIZE = 16  # clips in one forward pass of the VAE
SILENCE = float(np.log(MEL_FLOOR))  # pads short clips


def prepare_mels(config: PreprocessConfig, options: PreprocessOptions, captions: bool) -> None:
    """Recordings or scenes -> manifest and mel features, in files or shards; clips without a caption may be left out.

    Raises:
        UserError: as `text_audio.prepare`.
    """
    from sonolume.preprocessors import text_audio  # training does not need it

    assert options.dataset is not None
    in_shards = config.storage is Storage.shards or prepared.is_sharded(config, options.dataset)
    given = options.dataset, options.input, captions, options.audio_dir
    if in_shards:
        sound_shards.prepare(config, *given, keep_mels=config.keep_mels or not captions)
    else:
        text_audio.prepare(config, *given)


def read_rows(config: PreprocessConfig, datasets: list[str], split: str, captions: bool = False) -> list[Row]:
    """Read the rows of a split of all data sets that have features; see `prepared.read_split`.

    Raises:
        UserError: also if the features were made with other settings than the config's.
    """
    settings = asdict(MelSettings.of(config)) | {"frames": config.frames, "windows": config.windows}
    for dataset in datasets:
        folder = prepared.dataset_folder(config, dataset) / config.melspec_dir
        prepared.check_stored(config, folder / prepared.SETTINGS_FILE, settings)
    return prepared.read_split(
        config, datasets, split, lambda row: mel_path(config, row).is_file(), "features", captions
    )


def mel_path(config: PreprocessConfig, row: Row) -> Path:
    """Return the file of a row's log-mel."""
    return paths.resolve(config.processed_dir) / str(row.dataset) / config.melspec_dir / f"{row.uid}.npy"


def feature_keys(config: PreprocessConfig, rows: Sequence[Row]) -> list[Any]:
    """Build the cache key of the features of `rows`, which changes when they are prepared anew."""
    return [[row.dataset, row.uid, modified(mel_path(config, row))] for row in rows]


def modified(path: Path | None) -> int:
    """Return the time of a file's last change in ns, 0 for a missing file."""
    return path.stat().st_mtime_ns if path and path.is_file() else 0


def load_mel(path: Path, bands: int, frames: int) -> Tensor:
    """Read a log-mel (1, bands, frames), float32, cut or padded with silence; raises a UserError for any other file."""
    try:
        mel = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable ({error}): run run_preprocess.sh again") from error
    if mel.ndim != 2 or mel.shape[0] != bands:
        raise UserError(f"{path}: is {mel.shape}, not ({bands}, frames): it was prepared with other settings")
    mel = torch.from_numpy(mel[None, :, :frames].astype(np.float32))
    return F.pad(mel, (0, frames - mel.shape[-1]), value=SILENCE)


class MelFiles:
    """Log-mels of a split in one file for each clip. `rows` are the clips; a shard holds those of one data set."""

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str, captions: bool = False) -> None:
        self.config, self.datasets = config, datasets
        self.rows: Sequence[Row] = read_rows(config, datasets, split, captions)

    @property
    def dataset_sizes(self) -> list[int]:
        """Number of rows of each data set."""
        counts = Counter(row.dataset for row in self.rows)
        return [counts[dataset] // self.datasets.count(dataset) for dataset in self.datasets]

    @property
    def shard_rows(self) -> list[int]:
        """Number of rows of each shard of what is computed from them."""
        return [size for rows in self.dataset_sizes for size in sizes_of(rows)]

    @property
    def shards_of_datasets(self) -> list[int]:
        """Number of shards of each data set."""
        return [len(sizes_of(rows)) for rows in self.dataset_sizes]

    @property
    def all_rows(self) -> Sequence[Row]:
        """The clips, as `rows`."""
        return self.rows

    @property
    def key(self) -> list[Any]:
        """Everything that determines the mels."""
        return feature_keys(self.config, self.rows)

    def captions(self) -> Iterator[str]:
        """All captions of the split."""
        return (caption for row in self.rows for caption in row.captions)

    def __getitem__(self, index: int) -> Tensor:
        """Log-mel (1, bands, frames) of a clip."""
        return load_mel(mel_path(self.config, self.rows[index]), self.config.n_mel, self.config.frames)


class MelShards:
    """Log-mels of a split in shards, with the attributes of `MelFiles`.

    The mels are opened, and those that are missing computed, when they are read first: what was computed from them
    can be used without them. With `keep_mels` false they are computed for each shard and not stored.
    """

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str) -> None:
        self.config, self.split, self.folder = config, split, paths.resolve(config.processed_dir).resolve()
        self.datasets = [dataset for dataset in datasets if split in sound_shards.splits(config, dataset)]
        self.manifests = [sound_shards.manifest(config, dataset, split) for dataset in self.datasets]
        self.shards_of_datasets = [len(rows.column.shards.shard_rows) for rows in self.manifests]
        self.key: list[Any] = [sound_shards.mel_key(config, dataset, split) for dataset in self.datasets]

    def by_dataset(self) -> list["MelShards"]:
        """Split into one object for each data set."""
        return [MelShards(self.config, [dataset], self.split) for dataset in self.datasets]

    @cached_property
    def shards(self) -> Shards:
        return Shards.joined([sound_shards.mels(self.config, dataset, self.split) for dataset in self.datasets])

    @cached_property
    def rows(self) -> Sequence[Row]:
        """The clips, without those that cannot be used."""
        return Rows(self.shards.column(sound_shards.ROW), self.folder)

    @property
    def all_rows(self) -> Sequence[Row]:
        """The clips of the manifests, also those that cannot be used."""
        shards = Shards.joined([rows.column.shards for rows in self.manifests])
        return Rows(shards.column(sound_shards.ROW), self.folder)

    @property
    def shard_rows(self) -> list[int]:
        """Number of rows of each shard; without stored mels, of the manifest."""
        if self.config.keep_mels:
            return self.shards.shard_rows.tolist()
        return [rows for one in self.manifests for rows in one.column.shards.shard_rows.tolist()]

    @property
    def dataset_sizes(self) -> list[int]:
        """Number of rows of each data set."""
        return rows_of_groups(self.shard_rows, self.shards_of_datasets)

    def captions(self) -> Iterator[str]:
        """All captions of the split, also of clips that cannot be used."""
        return (caption for row in self.all_rows for caption in row.captions)

    @contextmanager
    def clips(self, writer: ShardWriter) -> Iterator["Clips"]:
        """The clips of the shard that `writer` writes."""
        if self.config.keep_mels:
            yield Clips(self, self.shards, self.shards.rows_of(writer.number))
            return
        dataset = bisect_right(list(itertools.accumulate(self.shards_of_datasets)), writer.number)
        shard = writer.number - sum(self.shards_of_datasets[:dataset])
        with sound_shards.mels_of_shard(self.config, self.datasets[dataset], self.split, shard, writer) as shards:
            yield Clips(self, shards, range(len(shards)))

    def __getitem__(self, index: int) -> Tensor:
        """Log-mel (1, bands, frames) of a clip."""
        return padded_mel(self._mels[index], self.config.frames)

    @cached_property
    def _mels(self) -> Column:
        return self.shards.column(sound_shards.MEL)


class Clips:
    """Clips of one shard with their log-mels; `rows` are those of the clips."""

    def __init__(self, mels: MelShards, shards: Shards, numbers: range) -> None:
        self.numbers, self.frames = numbers, mels.config.frames
        self.rows: Sequence[Row] = Rows(shards.column(sound_shards.ROW), mels.folder)[numbers.start : numbers.stop]
        self.mels = shards.column(sound_shards.MEL)

    def __getitem__(self, index: int) -> Tensor:
        """Log-mel (1, bands, frames) of a clip."""
        return padded_mel(self.mels[self.numbers[index]], self.frames)


def padded_mel(mel: np.ndarray, frames: int) -> Tensor:
    """Log-mel (1, bands, frames), float32, cut or padded with silence, of one in shards (any frames, bands)."""
    found = torch.from_numpy(mel[:frames].T.astype(np.float32))[None]
    return F.pad(found, (0, frames - found.shape[-1]), value=SILENCE)


def rows_of_groups(shard_rows: Sequence[int], groups: Sequence[int]) -> list[int]:
    """Number of rows of consecutive groups of shards, such as data sets; `groups` are their numbers of shards."""
    ends = np.cumsum([0, *shard_rows])[np.cumsum(groups)]
    return np.diff(ends, prepend=0).tolist()


def open_mels(
    config: PreprocessConfig, datasets: list[str], split: str, captions: bool = False
) -> MelFiles | MelShards:
    """Open the log-mels of a split as they were prepared; `captions` skips clips without one (not in shards).

    Raises:
        UserError: as `read_rows`; or some of the data sets are in shards and others are not.
    """
    sharded = [dataset for dataset in datasets if prepared.is_sharded(config, dataset)]
    if not sharded:
        return MelFiles(config, datasets, split, captions)
    if others := [dataset for dataset in datasets if dataset not in sharded]:
        raise UserError(f"dataset: {sharded[0]} is in shards and {others[0]} is not: prepare both with the same "
                        "preprocess.storage")  # fmt: skip
    return MelShards(config, datasets, split)


class MelDataset(Dataset[Tensor]):
    """Log-mels (1, bands, frames) of one split."""

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str) -> None:
        self.config, self.mels = config, open_mels(config, datasets, split)
        self.rows = self.mels.rows

    def __len__(self) -> int:
        return len(self.rows)

    def shard_rows(self) -> list[int]:
        """Number of rows of each shard, for the order of training."""
        return self.mels.shard_rows

    def dataset_sizes(self) -> list[int]:
        """Number of rows of each data set, for the order of training."""
        return self.mels.dataset_sizes

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return self.mels[item[1]]


def save_with_mel(model: Any, folder: Path, mel: dict[str, Any]) -> None:
    """Write weights (safetensors), config and mel settings."""
    model.save_pretrained(folder)
    files.write_json(folder / MEL_FILE, mel)


def stored_mel(located: str) -> dict[str, Any]:
    """Fields of `MelSettings`, and "frames" if known, of a model or pipeline folder; {} if it has none, or on the hub.

    Args:
        located: a local folder or a hub id.

    Raises:
        UserError: the file is broken.
    """
    folder = Path(located)
    if paths.is_local(located) and (folder / MEL_FILE).is_file():
        return files.read_json(folder / MEL_FILE)
    if paths.is_local(located) and (folder / "model_index.json").is_file():
        index = files.read_json(folder / "model_index.json")
        return index.get("mel", {}) | {name: index[name] for name in ("frames",) if name in index}
    return {}


def check_mel(found: dict[str, Any], wanted: MelSettings, where: str) -> None:
    """Raise a UserError that names each difference, unless a model has the mel settings `wanted` where it knows them.

    Args:
        where: config key and source of the model, and what it is, for the message.
    """
    pairs = asdict(wanted).items()
    wrong = [f"{name} {found[name]}, not {value}" for name, value in pairs if found.get(name, value) != value]
    if wrong:
        raise UserError(f"{where} of other mel settings: {'; '.join(wrong)}")
