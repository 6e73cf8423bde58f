"""Captions to generate from, and the real sounds beside them: scenes of the miniature world, or a user's recordings.

The real sounds lie in {output}/reference/UID.wav: mono, at the model's rate, and no longer than what it generates.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sonolume.config.base import MiniworldConfig, PreprocessConfig
from sonolume.models.evaluation import generation
from sonolume.models.evaluation.heldout import TEST_SEED
from sonolume.preprocessors.mel_features import MIN_SECONDS
from sonolume.preprocessors.miniworld import DURATION, SAMPLE_RATE, WORLD, world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import audio, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, read_manifest

FOLDER = "reference"
TEST_FILE = "test.json"  # of a data set with a test split
WINDOW = re.compile(r"_w(\d+)$")  # ends the Uid of a window of a long recording


@dataclass
class TestSet:
    """N captions and sounds, by Uid."""

    __test__ = False  # for pytest

    captions: dict[str, str]
    reference: dict[str, Path]
    source: dict[str, Any]
    """where they come from and how they were made; enters fingerprints"""
    sample_rate: int
    """Hz"""
    seconds: float
    """of what is generated for them"""
    scenes: list[Scene] = field(default_factory=list)
    """N, in the miniature world only"""
    labels: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(file, reason)"""


def of_world(mini: MiniworldConfig, count: int, folder: Path) -> TestSet:
    """Held-out scenes in wordings that training never showed, with every attribute said.

    Raises:
        UserError: an unknown kind of sound, or `folder` holds others.
    """
    try:
        scenes = {scene.uid: scene for scene in world.scenes("test", count, TEST_SEED, list(mini.kinds), mini.pairs)}
    except ValueError as error:
        raise UserError(f"preprocess.miniworld: {error}") from error
    captions = {uid: world.captions(scene, 1, "test", mention=1.0)[0] for uid, scene in scenes.items()}
    source = {"source": "miniature world", "world": WORLD, "kinds": list(mini.kinds), "pairs": mini.pairs}

    def render(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        return [world.render(scenes[uid]) for uid in uids]

    reference = generation.generate(
        folder / FOLDER, captions, source, render, saver(SAMPLE_RATE), seed=TEST_SEED, title="render"
    )
    return TestSet(captions, reference, source, SAMPLE_RATE, DURATION, list(scenes.values()))


def of_recordings(
    config: PreprocessConfig,
    datasets: list[str],
    manifest: Path | None,
    count: int,
    folder: Path,
    sample_rate: int,
    seconds: float,
) -> TestSet:
    """Recordings with a caption: of `manifest`, else of the test split of all data sets, or of the validation split
    where there is none; at most `count`, drawn by a hash of their Uids. A recording of several captions has the first.

    Raises:
        UserError: no such split, no caption, not one recording that can be read, or `folder` holds others.
    """
    rows = _read(manifest) if manifest else _split(config, datasets)
    chosen = dict(sorted(rows.items(), key=lambda item: generation.seed_of(0, item[0]))[:count])
    several = config.windows > 1 and manifest is None
    left_out: list[tuple[str, str]] = []

    def read(uids: list[str], seeds: list[int]) -> list[np.ndarray | None]:
        return [_clip(uid, chosen[uid].audio, sample_rate, seconds, several, left_out) for uid in uids]

    source = {"source": str(manifest or ", ".join(datasets)), "sample_rate": sample_rate, "seconds": seconds}
    files = {uid: str(row.audio) for uid, row in chosen.items()}
    reference = generation.generate(folder / FOLDER, files, source, read, saver(sample_rate), title="read")
    if not reference:
        raise UserError(f"{source['source']}: not one of {len(chosen)} recordings can be used: {left_out[0][1]}")
    captions = {uid: chosen[uid].captions[0] for uid in reference}
    labels = {uid: label for uid in reference if (label := chosen[uid].label)}
    return TestSet(captions, reference, source, sample_rate, seconds, labels=labels, left_out=left_out)


def saver(sample_rate: int) -> Any:
    """Writes a wave (n,) to a path, made quieter where it would leave -1..1."""

    def save(path: Path, wave: np.ndarray) -> None:
        audio.save_wav(path, wave / max(1.0, float(np.abs(wave).max(initial=0.0))), sample_rate)

    return save


def _clip(
    uid: str, path: Path | None, sample_rate: int, seconds: float, several: bool, left_out: list[tuple[str, str]]
) -> np.ndarray | None:
    """One window of a recording, (n,), or None and why."""
    index = int(found[1]) if several and (found := WINDOW.search(uid)) else 0
    length = round(seconds * sample_rate)
    try:
        if path is None:
            raise UserError("its row names no Audio")
        wave = audio.load(path, sample_rate, seconds=(index + 1) * seconds)[index * length :]
        if len(wave) < MIN_SECONDS * sample_rate or not np.isfinite(wave).all():
            raise UserError(f"{path}: shorter than {MIN_SECONDS} s, or holds NaN")
    except UserError as error:
        left_out.append((uid, str(error)))
        return None
    return wave


def _split(config: PreprocessConfig, datasets: list[str]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for dataset in datasets:
        folder = paths.resolve(config.processed_dir) / dataset
        names = [name for name in (TEST_FILE, config.valid_file) if (folder / name).is_file()]
        filled = [name for name in names if json.loads((folder / name).read_text(encoding="utf-8")) != []]
        if not names:
            raise UserError(
                f"{folder}: neither {TEST_FILE} nor {config.valid_file}: prepare the data first (run_preprocess.sh "
                "with the same --config), or name recordings with captions: --reference FOLDER_OR_MANIFEST"
            )
        if not filled:
            raise UserError(f"{folder}: {' and '.join(names)} without rows: give some clips the Split test or valid")
        waves = folder / config.wav_dir  # where data sets that came ready have them
        for uid, row in _read(folder / filled[0], dataset).items():
            row.audio = row.audio or waves / f"{uid}.wav"
            rows[uid if len(datasets) == 1 else f"{dataset}/{uid}"] = row
    return rows


def _read(manifest: Path, dataset: str | None = None) -> Mapping[str, Row]:
    rows = read_manifest(manifest, dataset)
    told = {row.uid: row for row in rows if row.captions}
    if not told:
        raise UserError(f"{manifest}: not one of {len(rows)} rows has a caption: there is nothing to generate from")
    return told
