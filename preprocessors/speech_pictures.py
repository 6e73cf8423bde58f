"""Spoken captions with pictures -> {processed_dir}/{Dataset}: 16 kHz wavs, pictures, manifests of splits, report.json.

The source is Flickr8k with its audio, SpokenCOCO, a manifest, or the miniature world, whose captions are spoken. The
captions of one picture share its folder {frames_dir}/{picture}/, by which training and evaluation know that they belong
together. A second run continues where an interrupted one stopped.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile

from sonolume.config.speech_pictures import SpeechPicturesConfig
from sonolume.preprocessors import flickr8k, parallel, prepared, spokencoco
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.preprocessors.miniworld.spoken import Utterance, utterances
from sonolume.preprocessors.prepared import LeftOut, Outcome, screen, world_rows
from sonolume.preprocessors.sound_pictures import is_complete, save_pictures, still_picture, usable
from sonolume.utils import audio, files, manifest, names
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import ConfigError, UserError
from sonolume.utils.manifest import FOLDER_MANIFESTS, Row
from sonolume.utils.video import VideoError

SETTINGS_FILE = "speech.json"
SETTINGS = ("sample_rate", "seconds", "longest_side")  # that all recordings of a folder share
COUNTED = ("low_rate", "longer")  # recordings, in the report
MARGIN = 0.05  # seconds by which a recording may exceed `seconds` before it counts as longer
MISSING = "a recording with a picture"


@dataclass(frozen=True)
class Picture:
    """A picture and the recordings that describe it."""

    name: str  # of its folder
    rows: tuple[Row, ...]


def prepare(
    config: SpeechPicturesConfig, dataset: str, source: Path | None = None, media_dir: Path | None = None
) -> dict[str, int]:
    """Prepare a data set of spoken captions, print a summary, and count the recordings of each split.

    Recordings without a Split get that of their picture, which a hash of its name chooses.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: see the module. By default the miniature world if `config.miniworld` has scenes, else the data set that
            an earlier run prepared.
        media_dir: folder of the recordings and pictures (default: that of the source).

    Raises:
        UserError: there is no input or no usable recording, or the folder holds recordings of other settings.
        OSError: the disk is full; the same call continues from there.
    """
    folder = prepared.dataset_folder(config, dataset)
    path, settings = folder / SETTINGS_FILE, {name: getattr(config, name) for name in SETTINGS}
    if source is None and not config.miniworld.train_scenes:
        prepared.check_stored(config, path, settings)
        return prepared.count_examples(config, dataset, is_complete, MISSING)
    if source is None:
        rows, left_out = world_utterances(config, dataset), []
        settings["input"] = asdict(config.miniworld) | {"espeak_voices": list(config.espeak_voices)}
    else:
        prepared.check_input(config, dataset, source)
        found, left_out = _recordings(dataset, source, media_dir)
        rows, screened_out = screen(found, images=True)
        left_out = left_out + screened_out
        settings |= {"input": str(source.resolve()), "media_dir": str(media_dir.resolve()) if media_dir else None}
    renamed = prepared.rename_colliding(rows, (".wav",))
    pictures = _by_picture(rows)
    _assign_splits(pictures, config.valid_fraction)
    with prepared.cleanup(folder):
        if pictures:
            prepared.store_settings(path, settings, f"remove {folder}, or choose another --dataset")
        work = functools.partial(_write_picture, folder=folder, config=config)
        done = parallel.run(work, pictures, config.num_workers, f"{dataset}: pictures")
        outcomes = [outcome for of_picture in done for outcome in of_picture]
        facts = {name: sum(outcome.counts.get(name, 0) for outcome in outcomes) for name in COUNTED}
        facts["pictures"] = len({row.image for outcome in outcomes for row in outcome.examples})
        counts = prepared.write(config, dataset, outcomes, left_out, renamed, **facts)
    print(f"{folder}: {facts['pictures']:,} pictures")
    if facts["longer"]:
        print(f"{folder}: {facts['longer']:,} recordings are longer than {config.seconds:g} s: what follows is left "
              "out (preprocess.seconds)")  # fmt: skip
    if facts["low_rate"]:
        print(f"{folder}: {facts['low_rate']:,} recordings were made below {config.sample_rate} Hz")
    divided = sum(len({row.split for row in picture.rows}) > 1 for picture in pictures)
    if divided:
        print(f"{folder}: pictures with recordings in several splits, as {source} has them: {divided:,}")
    return counts


def world_utterances(config: SpeechPicturesConfig, dataset: str) -> list[Row]:
    """Return one row for each spoken caption of the miniature world, without files."""
    rows = []
    for row in world_rows(config, dataset, labels=True):
        scene = Scene.from_dict(row.scene or {})
        for number, one in enumerate(
            utterances(scene, len(row.captions), row.split or "train", espeak_voices=config.espeak_voices)
        ):
            rows.append(replace(row, uid=f"{row.uid}_{number}", captions=[one.text], speaker=one.voice))
    return rows


def read_split(config: SpeechPicturesConfig, datasets: Sequence[str], split: str) -> list[Row]:
    """Read the rows of a split whose recordings and pictures exist; "train" has `config.subset_images` pictures.

    Raises:
        UserError: a data set is not prepared, or with other settings, no row is usable, or there are fewer pictures.
    """
    settings = {name: getattr(config, name) for name in SETTINGS}
    for dataset in datasets:
        prepared.check_stored(config, prepared.dataset_folder(config, dataset) / SETTINGS_FILE, settings)
    rows = prepared.read_split(config, datasets, split, is_complete, MISSING)
    if split == "train" and config.subset_images:
        return _subset(rows, config.subset_images, f"{', '.join(datasets)}: {config.train_file}")
    return rows


def _subset(rows: Sequence[Row], count: int, where: str) -> list[Row]:
    """Select the rows of `count` pictures by a hash of the pictures' names."""

    def order(picture: Path) -> tuple[str, str]:
        return hashlib.sha256(picture.name.encode("utf-8", "surrogatepass")).hexdigest(), str(picture)

    pictures = sorted({row.image for row in rows if row.image}, key=order)
    if count > len(pictures):
        raise ConfigError(f"preprocess.subset_images is {count}, but {where} has {len(pictures)} pictures: choose at "
                          f"most {len(pictures)}, or 0 for all")  # fmt: skip
    chosen = set(pictures[:count])
    return [row for row in rows if row.image in chosen]


def _recordings(dataset: str, source: Path, media_dir: Path | None) -> tuple[list[Row], list[LeftOut]]:
    """Read the rows of a source, and what cannot become one."""
    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest of recordings with pictures")
    if spokencoco.tables(source):  # first, as it has a folder wavs/, too
        return spokencoco.read(source, dataset, media_dir), []
    if flickr8k.is_published(source):
        return flickr8k.read(source, dataset, media_dir)
    if source.is_dir() and not any((source / name).is_file() for name in FOLDER_MANIFESTS):
        raise UserError(f"{source}: is neither Flickr8k with its audio (wavs/) nor SpokenCOCO "
                        f"({spokencoco.FILE_NAME}), and holds no {' or '.join(FOLDER_MANIFESTS)} with the columns "
                        "Audio and Image")  # fmt: skip
    rows = manifest.read_manifest(source, dataset, ("Audio|Video", "Image"), media_dir)
    return [replace(row, audio=row.audio or row.video, video=None) for row in rows], []


def _by_picture(rows: Sequence[Row]) -> list[Picture]:
    """Group the recordings of each image file, or of each scene, and name the groups."""
    groups: dict[str, list[Row]] = {}
    for row in rows:  # a scene's Uid, then the number of the caption
        key = os.path.abspath(row.image) if row.image else row.uid.rpartition("_")[0]
        groups.setdefault(key, []).append(row)
    has_files = any(row.image for row in rows)
    found = _picture_names(list(groups)) if has_files else list(groups)
    return [Picture(name, tuple(group)) for name, group in zip(found, groups.values(), strict=True)]


def _picture_names(paths: Sequence[str]) -> list[str]:
    """Name pictures by their paths without suffix inside the folder that contains all of them."""
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    stems = [Path(path).relative_to(folder).with_suffix("").as_posix() for path in paths]
    safe = [stem if files.is_safe_uid(stem) else "/".join(map(files.safe_name, PurePosixPath(stem).parts))
            for stem in stems]  # fmt: skip
    return names.distinct_uids(safe, ("",))


def _assign_splits(pictures: Sequence[Picture], valid_fraction: float) -> None:
    """Fill in missing splits, in place, the same one for all recordings of a picture."""
    given = [next((row.split for row in picture.rows if row.split), None) for picture in pictures]
    whole = [Row("", picture.name, split=split) for picture, split in zip(pictures, given, strict=True)]
    manifest.assign_splits(whole, valid_fraction)
    for picture, chosen in zip(pictures, whole, strict=True):
        for row in picture.rows:
            row.split = row.split or chosen.split


def _write_picture(picture: Picture, folder: Path, config: SpeechPicturesConfig) -> list[Outcome]:
    """Write a picture and its recordings, except what an earlier run wrote and whose source is still the same."""
    frames, first = folder / config.frames_dir / picture.name, picture.rows[0]
    is_stored = frames.is_dir() and not (first.image and prepared.is_newer(first.image, frames))
    try:
        found = [] if is_stored else usable([(None, still_picture(first))], f"{first.image}")
    except VideoError as error:
        return [Outcome(left_out=LeftOut.of(row, error.reason, str(error))) for row in picture.rows]
    outcomes = [_write_recording(row, number, frames, folder, config) for number, row in enumerate(picture.rows)]
    if found and any(outcome.examples for outcome in outcomes):
        save_pictures(found, frames, config.longest_side)
    return outcomes


def _write_recording(row: Row, number: int, frames: Path, folder: Path, config: SpeechPicturesConfig) -> Outcome:
    """Write the recording of a row, or speak caption `number` of its scene."""
    path = folder / config.audio_dir / f"{row.uid}.wav"
    example = replace(row, audio=path, image=frames)
    if path.is_file() and not prepared.is_outdated(row, path):
        example.duration = prepared.stored_seconds(path)
        return Outcome((example,), reused=True, counts=_counts(row, config))
    try:
        wave = _load_speech(row, number, config)
        audio.check_wave(wave, config.sample_rate, str(row.audio or ""), config.min_seconds)
    except SoundError as error:
        return Outcome(left_out=LeftOut.of(row, error.reason, str(error)))
    audio.save_wav(path, wave, config.sample_rate)
    example.duration = round(len(wave) / config.sample_rate, 3)
    return Outcome((example,), counts=_counts(row, config))


def _load_speech(row: Row, number: int, config: SpeechPicturesConfig) -> np.ndarray:
    """Load a recording as float32 (n,), or speak caption `number` of a scene; raises as `audio.load`."""
    if row.audio is not None:
        return audio.load(row.audio, config.sample_rate, seconds=config.seconds)
    scene = Scene.from_dict(row.scene or {})
    return Utterance(row.captions[0], str(row.speaker), scene.seed + number).render()


def _counts(row: Row, config: SpeechPicturesConfig) -> dict[str, int]:
    """Whether a recording has a lower sample rate and is longer than the config's; unknown for what PyAV decodes."""
    if row.audio is None:
        return {}
    try:
        facts = soundfile.info(audio.encoded(row.audio))
    except soundfile.SoundFileError:
        return {}
    return {"low_rate": facts.samplerate < config.sample_rate, "longer": facts.duration > config.seconds + MARGIN}
