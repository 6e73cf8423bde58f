"""Prepared data sets: the folder {processed_dir}/{dataset} with its settings and one manifest per split."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sonolume.config.base import PreprocessConfig
from sonolume.config.pairs import PairsConfig
from sonolume.preprocessors.report import format_counts
from sonolume.utils import files, manifest, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

DataConfig = PreprocessConfig | PairsConfig


def dataset_folder(config: DataConfig, dataset: str) -> Path:
    """Return {processed_dir}/{dataset}.

    Raises:
        UserError: the name is not that of a single folder.
    """
    if dataset != Path(dataset).name or dataset in ("", ".."):
        raise UserError(f"dataset: {dataset!r} is not the name of a folder")
    return paths.resolve(config.processed_dir) / dataset


def manifest_names(config: DataConfig) -> dict[str, str]:
    """File names of the manifests by split."""
    return {"train": config.train_file, "valid": config.valid_file}


def read_split(
    config: DataConfig,
    datasets: Sequence[str],
    split: str,
    is_complete: Callable[[Row], bool],
    missing: str,
    captions: bool = False,
) -> list[Row]:
    """Read the rows of a split of all data sets that training can use; print how many are incomplete.

    Args:
        split: "train" or "valid".
        is_complete: whether the files of a row exist.
        missing: what incomplete rows lack, such as "features".
        captions: skip rows without a caption.

    Raises:
        UserError: a data set is not prepared (the message names the command), a Uid is unsafe, or no row is usable.
    """
    name = manifest_names(config)[split]
    rows: list[Row] = []
    for dataset in datasets:
        path = paths.resolve(config.processed_dir) / dataset / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file: prepare the data first (run_preprocess.sh of this recipe, with the same "
                "--config; --input FOLDER for data of your own). The tiny.json of this recipe needs no data"
            )
        found = [row for row in read_rows(path, dataset) if row.captions or not captions]
        complete = [row for row in found if is_complete(row)]
        if len(complete) < len(found) and os.environ.get("LOCAL_RANK", "0") == "0":
            first = next(row.uid for row in found if not is_complete(row))
            print(f"{path}: left out {len(found) - len(complete):,} of {len(found):,} rows without {missing}, "
                  f"such as {first}")  # fmt: skip
        rows += complete
    if not rows and split == "train":
        what = f"{missing}{' and a caption' if captions else ''}"
        raise UserError(f"{', '.join(datasets)}: no usable rows in {name} (with {what}): see report.json")
    return rows


def read_all(config: DataConfig, folder: Path) -> dict[str, list[Row]]:
    """Read the manifests of a data set that exist, by split."""
    names = manifest_names(config).items()
    return {split: read_rows(folder / name) for split, name in names if (folder / name).is_file()}


def print_counts(folder: Path, splits: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Print and return the sizes of the splits of a data set that was prepared before."""
    counts = {split: len(rows) for split, rows in splits.items()}
    print(f"{folder}: {format_counts(counts)}, prepared before (name recordings with --input to start from them)")
    return counts


def read_rows(path: Path, dataset: str | None = None) -> list[Row]:
    """Read the manifest of a prepared data set, whose Uids become file names.

    Raises:
        UserError: the manifest cannot be read, or a Uid leads out of the folder.
    """
    rows = manifest.read_manifest(path, dataset)
    unsafe = next((row.uid for row in rows if not files.is_safe_uid(row.uid)), None)
    if unsafe is not None:
        raise UserError(f"{path}: Uid {unsafe!r} is not a file name inside the data set: rename or remove it")
    return rows


def check_settings(path: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Check that stored settings equal `settings`.

    Raises:
        UserError: they are missing, broken or different; names each difference and the remedy.
    """
    old = files.read_json(path, f"the settings of what was prepared there; {remedy}")
    changes = [f"{key} {old.get(key)} (now {new})" for key, new in settings.items() if old.get(key) != new]
    if changes:
        raise UserError(f"{path.parent}: prepared with other settings: {', '.join(changes)}; {remedy}")
