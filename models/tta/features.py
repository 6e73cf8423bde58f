"""Datasets of prepared features, addressed by (epoch, index)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.base import PreprocessConfig
from sonolume.modules.mel import MEL_FLOOR
from sonolume.utils import files, manifest, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

SILENCE = float(np.log(MEL_FLOOR))  # pads short clips


def read_rows(config: PreprocessConfig, datasets: list[str], split: str, captions: bool = False) -> list[Row]:
    """Read the rows of a split ("train" or "valid") of all data sets, leaving out rows without features.

    Args:
        captions: leave out rows without captions, too.

    Raises:
        UserError: the data are not prepared, or a Uid points outside the folder.
    """
    name = {"train": config.train_file, "valid": config.valid_file}[split]
    rows: list[Row] = []
    for dataset in datasets:
        path = paths.resolve(config.processed_dir) / dataset / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file: prepare the data first with run_preprocess.sh and the same --config (--input "
                "FOLDER for your own recordings); the recipe's tiny.json needs no data"
            )
        found = [row for row in manifest.read_manifest(path, dataset) if row.captions or not captions]
        rows += _with_features(config, path, found)
    if not rows and split == "train":
        raise UserError(f"{datasets}: no usable rows in {name}{' with a caption' if captions else ''}: see report.json")
    return rows


def _with_features(config: PreprocessConfig, path: Path, rows: list[Row]) -> list[Row]:
    unsafe = next((row.uid for row in rows if not files.is_safe_uid(row.uid)), None)
    if unsafe is not None:
        raise UserError(f"{path}: Uid {unsafe!r} is not a file name inside the folder of features: rename or remove it")
    kept = [row for row in rows if mel_path(config, row).is_file()]
    if len(kept) < len(rows) and os.environ.get("LOCAL_RANK", "0") == "0":
        gone = next(mel_path(config, row) for row in rows if not mel_path(config, row).is_file())
        print(f"{path}: left out {len(rows) - len(kept):,} of {len(rows):,} clips without features, such as {gone}")
    return kept


def mel_path(config: PreprocessConfig, row: Row) -> Path:
    """File of a row's log-mel."""
    return paths.resolve(config.processed_dir) / str(row.dataset) / config.melspec_dir / f"{row.uid}.npy"


def cache_folder(config: PreprocessConfig, datasets: list[str]) -> Path:
    """Folder of the arrays that are computed from the features of these data sets."""
    return paths.resolve(config.processed_dir) / datasets[0] / "cache"


def feature_keys(config: PreprocessConfig, rows: list[Row]) -> list[Any]:
    """Cache key of the features of `rows`, which changes when they are prepared anew."""
    files_of = [mel_path(config, row) for row in rows]
    times = [path.stat().st_mtime_ns if path.is_file() else 0 for path in files_of]
    return [[row.dataset, row.uid, time] for row, time in zip(rows, times, strict=True)]


def load_mel(path: Path, bands: int, frames: int) -> Tensor:
    """Read a log-mel (1, bands, frames), float32, cut or padded with silence.

    Raises:
        UserError: the file is missing, damaged or has another number of bands.
    """
    try:
        mel = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable ({error}): run run_preprocess.sh again") from error
    if mel.ndim != 2 or mel.shape[0] != bands:
        raise UserError(f"{path}: is {mel.shape}, not ({bands}, frames): it was prepared with other settings")
    mel = mel[:, :frames].astype(np.float32)
    padded = np.pad(mel, ((0, 0), (0, frames - mel.shape[1])), constant_values=SILENCE)
    return torch.from_numpy(padded)[None]


class MelDataset(Dataset[Tensor]):
    """Log-mels (1, bands, frames) of one split."""

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str) -> None:
        self.config = config
        self.rows = read_rows(config, datasets, split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        row = self.rows[item[1]]
        return load_mel(mel_path(self.config, row), self.config.n_mel, self.config.frames)
