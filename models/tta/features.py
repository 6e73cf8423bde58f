"""Datasets of prepared features, addressed by (epoch, index)."""

import os
from pathlib import Path

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
    """The rows of a split ("train" or "valid") of all data sets; only those with captions if `captions`.

    Rows without features are left out, and a line says how many.

    Raises:
        UserError: nothing is prepared there (the message names the commands that prepare it), or a Uid leads out of the
            folder.
    """
    name = {"train": config.train_file, "valid": config.valid_file}[split]
    rows: list[Row] = []
    for dataset in datasets:
        path = paths.resolve(config.processed_dir) / dataset / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file: prepare the data first (run_preprocess.sh of this recipe, with the same "
                "--config; --input FOLDER for recordings of your own). tiny.json beside exp_config.json needs no data"
            )
        found = [row for row in manifest.read_manifest(path, dataset) if row.captions or not captions]
        rows += _with_features(config, path, found)
    if not rows and split == "train":
        raise UserError(f"{datasets}: no usable rows in {name}{' with a caption' if captions else ''}: see report.json")
    return rows


def _with_features(config: PreprocessConfig, path: Path, rows: list[Row]) -> list[Row]:
    unsafe = next((row.uid for row in rows if not files.is_safe_uid(row.uid)), None)
    if unsafe is not None:
        raise UserError(f"{path}: Uid {unsafe!r} is no file name inside the folder of features: rename or remove it")
    kept = [row for row in rows if mel_path(config, row).is_file()]
    if len(kept) < len(rows) and os.environ.get("LOCAL_RANK", "0") == "0":
        gone = next(mel_path(config, row) for row in rows if not mel_path(config, row).is_file())
        print(f"{path}: left out {len(rows) - len(kept):,} of {len(rows):,} clips without features, such as {gone}")
    return kept


def mel_path(config: PreprocessConfig, row: Row) -> Path:
    """Where the log-mel of a row lies."""
    return paths.resolve(config.processed_dir) / str(row.dataset) / config.melspec_dir / f"{row.uid}.npy"


def load_mel(path: Path, bands: int, frames: int) -> Tensor:
    """(1, bands, frames) float32: the first `frames` frames, padded with silence.

    Raises:
        UserError: the file is missing, damaged or of other bands.
    """
    try:
        mel = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable ({error}): run run_preprocess.sh again") from error
    if mel.ndim != 2 or mel.shape[0] != bands:
        raise UserError(f"{path}: is {mel.shape}, not ({bands}, frames): prepared with other settings")
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
