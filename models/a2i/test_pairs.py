"""Sounds to make pictures of, and the real pictures beside them: scenes of the miniature world, or prepared pairs.

They lie in {output}/sounds/UID.wav and {output}/reference/UID.png.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sonolume.models.evaluation import generation
from sonolume.models.evaluation.heldout import TEST_SEED
from sonolume.preprocessors.miniworld import SAMPLE_RATE, WORLD, world
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.pair_files import pictures_of
from sonolume.utils import audio, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, read_manifest

TEST_FILE = "test.json"  # of a data set with a test split


@dataclass
class TestPairs:
    """N sounds and pictures, by Uid."""

    __test__ = False  # for pytest

    sounds: dict[str, Path]
    reference: dict[str, Path]
    captions: dict[str, str]
    """what a text would say of the sound"""
    labels: dict[str, str]
    source: dict[str, Any]
    """where they come from; enters fingerprints"""
    scenes: list[Scene] = field(default_factory=list)
    """N, in the miniature world only"""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(file, reason)"""


def only(pairs: TestPairs, uids: Collection[str]) -> TestPairs:
    """Those of these Uids, in the order that they have."""

    def kept(files: Mapping[str, Any]) -> dict[str, Any]:
        return {uid: file for uid, file in files.items() if uid in uids}

    scenes = [scene for scene in pairs.scenes if scene.uid in uids]
    found = {name: kept(getattr(pairs, name)) for name in ("sounds", "reference", "captions", "labels")}
    return replace(pairs, scenes=scenes, **found)


def of_world(config: Any, count: int, folder: Path, sample_rate: int) -> TestPairs:
    """Held-out scenes; captions in wordings that training never showed, with every attribute said.

    Raises:
        UserError: an unknown kind of sound, another sample rate, or `folder` holds others.
    """
    mini = config.preprocess.miniworld
    if sample_rate != SAMPLE_RATE:
        raise UserError(f"the miniature world sounds at {SAMPLE_RATE} Hz, this encoder takes {sample_rate} Hz")
    try:
        found = world.scenes("test", count, TEST_SEED, list(mini.kinds), mini.pairs and mini.train_scenes > 0)
        scenes = {scene.uid: scene for scene in found}
    except ValueError as error:
        raise UserError(f"preprocess.miniworld: {error}") from error
    captions = {uid: world.captions(scene, 1, "test", mention=1.0)[0] for uid, scene in scenes.items()}
    labels = {uid: scene.events[0].kind for uid, scene in scenes.items() if not scene.relation}
    source = {"source": "miniature world", "world": WORLD, "kinds": list(mini.kinds), "pairs": mini.pairs}

    def waves(uids: list[str], seeds: list[int]) -> list[np.ndarray]:
        return [world.render(scenes[uid]) for uid in uids]

    def pictures(uids: list[str], seeds: list[int]) -> list[Image.Image]:
        return [Image.fromarray(world.picture(scenes[uid])) for uid in uids]

    sounds = generation.generate(
        folder / "sounds", captions, source, waves, _save_wave, seed=TEST_SEED, title="sounds"
    )
    reference = generation.generate(
        folder / "reference", captions, source, pictures, _save_picture, suffix=".png", seed=TEST_SEED,
        title="pictures",
    )  # fmt: skip
    return TestPairs(sounds, reference, captions, labels, source, list(scenes.values()))


def _save_wave(path: Path, wave: np.ndarray) -> None:
    audio.save_wav(path, wave, SAMPLE_RATE)


def _save_picture(path: Path, picture: Image.Image) -> None:
    picture.save(path, format="PNG")


def of_recordings(config: Any, count: int, folder: Path, sample_rate: int) -> TestPairs:
    """Prepared pairs of the test split of all data sets, or of the validation split where there is none.

    At most `count`, drawn by a hash of their Uids. The picture of a video is the one nearest to its middle; the caption
    is the row's first, else its label.

    Raises:
        UserError: no such split, or no row with a sound and a picture.
    """
    rows = _split(config.preprocess, config.dataset)
    chosen = dict(sorted(rows.items(), key=lambda item: generation.seed_of(0, item[0]))[:count])
    if not chosen:
        raise UserError(f"{', '.join(config.dataset)}: no pair to test on: see report.json of the data set")
    middles = {uid: _middle(row) for uid, row in chosen.items()}
    captions = {uid: text for uid, row in chosen.items() if (text := (row.captions or [row.label or ""])[0])}
    labels = {uid: row.label for uid, row in chosen.items() if row.label}
    sounds = {uid: row.audio for uid, row in chosen.items() if row.audio}
    if len(captions) < len(chosen):
        raise UserError(f"{next(uid for uid in chosen if uid not in captions)}: neither Caption nor Label: "
                        "a test pair needs one, for the true caption's picture")  # fmt: skip
    return TestPairs(sounds, middles, captions, labels, {"source": ", ".join(config.dataset)})


def _split(config: Any, datasets: Sequence[str]) -> Mapping[str, Row]:
    found: dict[str, Row] = {}
    for dataset in datasets:
        folder = paths.resolve(config.processed_dir) / dataset
        path = next((folder / name for name in (TEST_FILE, config.valid_file) if (folder / name).is_file()), None)
        if path is None:
            raise UserError(f"{folder}: neither {TEST_FILE} nor {config.valid_file}: run run_preprocess.sh first")
        for row in read_manifest(path, dataset):
            if row.audio and row.audio.is_file() and row.image and row.image.is_dir():
                found[row.uid] = row
    return found


def _middle(row: Row) -> Path:
    pictures = pictures_of(row)
    middle = (row.duration or 0.0) / 2
    return min(pictures, key=lambda one: abs((middle if one[0] is None else one[0]) - middle))[1]
