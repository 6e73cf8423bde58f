"""Mel features: datasets of prepared ones, addressed by (epoch, index), and the settings that a model stores."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.base import PreprocessConfig
from sonolume.modules.mel import MEL_FLOOR, MelSettings
from sonolume.preprocessors import prepared
from sonolume.utils import files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

MEL_FILE = "mel.json"  # of a model: fields of `MelSettings`; of an autoencoder also "frames"
BATCH_SIZE = 16  # clips in one forward pass of the VAE
SILENCE = float(np.log(MEL_FLOOR))  # pads short clips


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


def feature_keys(config: PreprocessConfig, rows: list[Row]) -> list[Any]:
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


def mel_batches(config: PreprocessConfig, rows: list[Row], title: str) -> Iterator[Tensor]:
    """Read the log-mels of `rows` in batches (B, 1, bands, frames), with a progress bar."""
    for start in tqdm(range(0, len(rows), BATCH_SIZE), desc=title, unit="batch"):
        some = rows[start : start + BATCH_SIZE]
        yield torch.stack([load_mel(mel_path(config, row), config.n_mel, config.frames) for row in some])


class MelDataset(Dataset[Tensor]):
    """Log-mels (1, bands, frames) of one split."""

    def __init__(self, config: PreprocessConfig, datasets: list[str], split: str) -> None:
        self.config = config
        self.rows = read_rows(config, datasets, split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        return load_mel(mel_path(self.config, self.rows[item[1]]), self.config.n_mel, self.config.frames)


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
