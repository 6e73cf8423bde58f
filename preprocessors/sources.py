"""Rows to prepare: scenes of the miniature world, recordings, and which of them can be used."""

from collections.abc import Sequence

import numpy as np

from sonolume.preprocessors.prepared import DataConfig
from sonolume.preprocessors.report import LeftOut
from sonolume.utils import audio, files
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


def world_rows(config: DataConfig, dataset: str, labels: bool = False) -> list[Row]:
    """Scenes of the miniature world as rows without files.

    Args:
        labels: label scenes of a single event with its kind.

    Raises:
        UserError: the world has another sample rate, or a config field is wrong.
    """
    from sonolume.preprocessors.miniworld import SAMPLE_RATE, world

    if config.sample_rate != SAMPLE_RATE:
        raise UserError(f"preprocess.sample_rate {config.sample_rate}: the miniature world has {SAMPLE_RATE} Hz")
    mini, rows = config.miniworld, []
    try:
        for split, count in (("train", mini.train_scenes), ("valid", mini.valid_scenes)):
            for scene in world.scenes(split, count, mini.seed, list(mini.kinds), mini.pairs):
                captions = world.captions(scene, mini.captions_per_scene, split)
                label = scene.events[0].kind if labels and len(scene.events) == 1 else None
                rows.append(Row(dataset, scene.uid, None, captions, label=label, split=split, scene=scene.to_dict()))
    except ValueError as error:
        raise UserError(f"preprocess.miniworld: {error}") from error
    return rows


def load_wave(row: Row, sample_rate: int, seconds: float) -> np.ndarray:
    """Load the sound of a row: its file, else the rendering of its scene.

    Returns:
        float32 (n,), at most `seconds` of a file.

    Raises:
        SoundError: the file cannot be read.
        UserError: the row has neither.
    """
    if row.audio is not None:
        return audio.load(row.audio, sample_rate, seconds=seconds)
    if row.scene is None:
        raise UserError(f"{row.dataset}: {row.uid} has neither Audio nor a Scene")
    from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

    return world.render(world.Scene.from_dict(row.scene))


def screen(rows: Sequence[Row], captions: bool = False, images: bool = False) -> tuple[list[Row], list[LeftOut]]:
    """Sort out the rows that can be rejected without opening a file.

    Args:
        captions: each row needs a caption.
        images: each row needs an image or a video.
    """
    kept: list[Row] = []
    left_out: list[LeftOut] = []
    uids: set[str] = set()
    for row in rows:
        problem = None
        if not files.is_safe_uid(row.uid):
            problem = "unsafe Uid", "not a file name inside the data set"
        elif row.uid in uids:
            problem = "duplicate Uid", "an earlier row has it; that one is kept"
        elif row.audio is None:
            problem = "no sound", "the row names neither Audio nor Video"
        elif captions and not row.captions:
            problem = "no caption", ""
        elif images and row.image is None and row.video is None:
            problem = "no picture", "the row names neither Image nor Video"
        if problem:
            left_out.append(LeftOut.of(row, *problem))
        else:
            uids.add(row.uid)
            kept.append(row)
    return kept, left_out
