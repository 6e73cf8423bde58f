"""Rows to prepare: scenes of the miniature world, recordings, and which of them can be used."""

from collections.abc import Sequence

import numpy as np

from sonolume.preprocessors.prepared import DataConfig, LeftOut
from sonolume.utils import audio, files
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


def world_rows(config: DataConfig, dataset: str, labels: bool = False) -> list[Row]:
    """Return scenes of the miniature world as rows without files; with `labels`, the kind of a single event is one."""
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
    """Load `seconds` of the sound of a row at most, or render its scene, float32 (n,); raises as `audio.load`."""
    if row.audio is not None:
        return audio.load(row.audio, sample_rate, seconds=seconds)
    if row.scene is None:
        raise UserError(f"{row.dataset}: {row.uid} has neither Audio nor a Scene")
    from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

    return world.render(world.Scene.from_dict(row.scene))


def screen(rows: Sequence[Row], captions: bool = False, images: bool = False) -> tuple[list[Row], list[LeftOut]]:
    """Sort out rows without opening a file; each needs a sound, and a caption or a picture if that is asked for."""
    kept: dict[str, Row] = {}
    left_out: list[LeftOut] = []
    for row in rows:
        problems = {
            ("unsafe Uid", "not a file name inside the data set"): not files.is_safe_uid(row.uid),
            ("duplicate Uid", "an earlier row has it; that one is kept"): row.uid in kept,
            ("no sound", "the row names neither Audio nor Video"): row.audio is None,
            ("no caption", ""): captions and not row.captions,
            ("no picture", "the row names neither Image nor Video"): images and not (row.image or row.video),
        }
        problem = next((problem for problem, occurs in problems.items() if occurs), None)
        if problem:
            left_out.append(LeftOut.of(row, *problem))
        else:
            kept[row.uid] = row
    return list(kept.values()), left_out
