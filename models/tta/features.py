"""Datasets of prepared mel features, addressed by (epoch, index)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.base import PreprocessConfig
from sonolume.modules.mel import MEL_FLOOR
from sonolume.preprocessors import prepared
from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

SILENCE = float(np.log(MEL_FLOOR))  # pads short clips


def read_rows(config: PreprocessConfig, datasets: list[str], split: str, captions: bool = False) -> list[Row]:
    """Read the rows of a split ("train" or "valid") of all data sets that have features; print how many have none.

    Args:
        captions: skip rows without a caption.

    Raises:
        UserError: a data set is not prepared, a Uid is unsafe, or no row is usable.
    """
    return prepared.read_split(
        config, datasets, split, lambda row: mel_path(config, row).is_file(), "features", captions
    )


def mel_path(config: PreprocessConfig, row: Row) -> Path:
    """The file of the log-mel of a row."""
    return paths.resolve(config.processed_dir) / str(row.dataset) / config.melspec_dir / f"{row.uid}.npy"


def load_mel(path: Path, bands: int, frames: int) -> Tensor:
    """Load the first `frames` frames of a log-mel, padded with silence: (1, bands, frames) float32.

    Raises:
        UserError: the file is missing or damaged, or has another number of bands.
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
