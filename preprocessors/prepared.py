"""Prepared data sets: the folder {processed_dir}/{dataset} with its settings and one manifest per split."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonolume.config.audio_to_image import PairsConfig
from sonolume.config.base import PreprocessConfig
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


@contextmanager
def cleanup(folder: Path) -> Iterator[None]:
    """Remove the temporary files of a run that was killed, once the block has succeeded."""
    unfinished = list(folder.rglob(f"{files.TEMPORARY}*"))
    yield
    for path in unfinished:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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
        found = [row for row in manifest.read_manifest(path, dataset) if row.captions or not captions]
        unsafe = next((row.uid for row in found if not files.is_safe_uid(row.uid)), None)
        if unsafe is not None:
            raise UserError(f"{path}: Uid {unsafe!r} is not a file name inside the data set: rename or remove it")
        complete = [is_complete(row) for row in found]
        rows += itertools.compress(found, complete)
        if not all(complete) and os.environ.get("LOCAL_RANK", "0") == "0":
            first, count = found[complete.index(False)].uid, complete.count(False)
            print(f"{path}: left out {count:,} of {len(found):,} rows without {missing}, such as {first}")
    if not rows and split == "train":
        needed = f"{missing}{' and a caption' if captions else ''}"
        raise UserError(f"{', '.join(datasets)}: no usable rows in {name}, each needs {needed}: prepare the recordings "
                        "with --input, and see report.json for those that were left out")  # fmt: skip
    return rows


def count_examples(
    config: DataConfig, dataset: str, is_complete: Callable[[Row], bool], missing: str
) -> dict[str, int]:
    """Count and print the examples of each split of a data set that was prepared before; see `read_split`."""
    folder = dataset_folder(config, dataset)
    if not (folder / config.train_file).is_file():
        raise UserError(f"{folder}: not prepared yet: name a folder or manifest of recordings with --input")
    splits = [split for split, name in manifest_names(config).items() if (folder / name).is_file()]
    counts = {split: len(read_split(config, [dataset], split, is_complete, missing)) for split in splits}
    print(f"{folder}: {format_counts(counts)}, prepared before (name recordings with --input to start from them)")
    return counts


def check_settings(path: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Check that stored settings equal `settings`.

    Raises:
        UserError: they are missing, broken or different; names each difference and the remedy.
    """
    old = files.read_json(path, f"the settings of what was prepared there; {remedy}")
    changes = [f"{key} {old.get(key)} (now {new})" for key, new in settings.items() if old.get(key) != new]
    if changes:
        raise UserError(f"{path.parent}: prepared with other settings: {', '.join(changes)}; {remedy}")
