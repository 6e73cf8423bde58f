"""Spoken captions with pictures -> {processed_dir}/{Dataset}: 16 kHz wavs, pictures, manifests of splits, report.json.

The source is Flickr8k with its audio, SpokenCOCO, a manifest, or the miniature world, whose captions are spoken. The
captions of one picture share its folder {frames_dir}/{picture}/, by which training and evaluation know that they belong
together. A second run continues where an interrupted one stopped.
"""

from collections.abc import Sequence
from dataclasses import replace

from sonolume.config.speech_pictures import SpeechPicturesConfig
from sonolume.preprocessors import prepared
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.spoken import utterances
from sonolume.preprocessors.prepared import world_rows
from sonolume.preprocessors.sound_pictures import is_complete
from sonolume.utils.manifest import Row

SETTINGS_FILE = "speech.json"
SETTINGS = ("sample_rate", "seconds", "longest_side")  # that all recordings of a folder share
RECORDINGS_PER_WORKER = 20  # for which a process is worth its start


def world_utterances(config: SpeechPicturesConfig, dataset: str) -> list[Row]:
    """Return one row for each spoken caption of the miniature world, without files."""
    rows = []
    for row in world_rows(config, dataset, labels=True):
        scene = Scene.from_dict(row.scene or {})
        for number, one in enumerate(utterances(scene, len(row.captions), row.split or "train")):
            rows.append(replace(row, uid=f"{row.uid}_{number}", captions=[one.text], speaker=one.voice))
    return rows


def read_split(config: SpeechPicturesConfig, datasets: Sequence[str], split: str) -> list[Row]:
    """Read the rows of a split whose recordings and pictures exist.

    Raises:
        UserError: a data set is not prepared, or with other settings, or no row is usable.
    """
    settings = {name: getattr(config, name) for name in SETTINGS}
    for dataset in datasets:
        prepared.check_stored(config, prepared.dataset_folder(config, dataset) / SETTINGS_FILE, settings)
    return prepared.read_split(config, datasets, split, is_complete, "a recording with a picture")
