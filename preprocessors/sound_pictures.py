"""Sounds with pictures -> {processed_dir}/{Dataset}: 16 kHz wavs, pictures, train.json, valid.json, and report.json.

The source is VGGSound, a folder of videos, a manifest of pairs (Audio or Video, and Image or Video), or the miniature
world. A second run continues where an interrupted one stopped.
"""

import functools
from dataclasses import asdict, replace
from pathlib import Path

from sonolume.config.pairs import PairsConfig
from sonolume.preprocessors import pair_files, parallel, prepared, vggsound
from sonolume.preprocessors.pair_files import Pair
from sonolume.preprocessors.prepared import LeftOut
from sonolume.preprocessors.sources import screen, world_rows
from sonolume.preprocessors.vggsound import VGGSound
from sonolume.utils import files, manifest
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, assign_splits, read_manifest

SETTINGS_FILE = "pairs.json"
SETTINGS = ("sample_rate", "seconds", "frames", "longest_side", "filter_frames")  # that all pairs of a folder share
CLIPS_PER_WORKER = 20  # clips for which a process is worth its start


def prepare(
    config: PairsConfig, dataset: str, source: Path | None = None, media_dir: Path | None = None
) -> dict[str, int]:
    """Prepare a data set of pairs for training, print a summary, and count the examples of each split.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: see the module. By default the miniature world if `config.miniworld` has scenes, else the data set that
            an earlier run prepared.
        media_dir: folder of the files of a table or manifest (default: that of the table).

    Raises:
        UserError: there is no input or no usable pair, or the folder holds pairs of other settings.
        OSError: the disk is full; the same call continues from there.
    """
    folder = prepared.dataset_folder(config, dataset)
    if source is None and not config.miniworld.train_scenes:
        return prepared.count_examples(config, dataset, pair_files.is_complete, "a sound or pictures")
    if source is None:
        pairs, left_out = [Pair(row) for row in world_rows(config, dataset, labels=True)], []
    else:
        pairs, left_out = _recordings(config, dataset, source, media_dir)
    assign_splits([pair.row for pair in pairs], config.valid_fraction)
    with prepared.cleanup(folder):
        if pairs:
            settings = {name: getattr(config, name) for name in SETTINGS}
            settings["input"] = str(source.resolve()) if source else asdict(config.miniworld)
            if (folder / SETTINGS_FILE).is_file():
                remedy = f"remove {folder}, or choose another --dataset"
                prepared.check_settings(folder / SETTINGS_FILE, settings, remedy)
            files.write_json(folder / SETTINGS_FILE, settings)
        work = functools.partial(pair_files.write, folder=folder, config=config)
        outcomes = parallel.run(work, pairs, config.num_workers, f"{dataset}: pairs", CLIPS_PER_WORKER)
        facts = {name: sum(outcome.counts.get(name, 0) for outcome in outcomes) for name in ("pictures", "low_rate")}
        counts = prepared.write(config, dataset, outcomes, left_out, facts)
    low = f"; {facts['low_rate']} sounds were recorded below {config.sample_rate} Hz" if facts["low_rate"] else ""
    print(f"{folder}: {facts['pictures']} pictures{low}")
    return counts


def _recordings(
    config: PairsConfig, dataset: str, source: Path, media_dir: Path | None
) -> tuple[list[Pair], list[LeftOut]]:
    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest of videos, or of sounds with pictures")
    if vggsound.table_of(source):
        found = vggsound.read(source, dataset, config, media_dir)
    else:
        found = VGGSound([_with_video(row) for row in read_manifest(source, dataset, ("Audio|Video",), media_dir)])
    rows, left_out = screen(found.rows, images=True)
    return [Pair(row, tuple(found.best_frames.get(row.uid, ()))) for row in rows], found.left_out + left_out


def _with_video(row: Row) -> Row:
    """Fill in what a video stands for: its sound track, and its folder's name as the label."""
    film = row.video or (row.audio if row.audio and manifest.is_video(row.audio) else None)
    folder = Path(row.uid).parent.name.replace("_", " ")
    return replace(row, video=film, audio=row.audio or film, label=row.label or folder or None)
