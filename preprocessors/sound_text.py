"""Sounds with texts -> {processed_dir}/{Dataset}: 16 kHz wavs, train.json, valid.json, test.json, and report.json.

The source is FSD50K, AudioCaps, VGGSound, a manifest with labels or captions, a folder, or the miniature world.
`preprocess.text_field` chooses the texts, which become the captions of the manifests. A second run continues where an
interrupted one stopped.
"""

import functools
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sonolume.config.audio_to_image import PairsConfig
from sonolume.config.sound_text import SoundTextConfig
from sonolume.preprocessors import audiocaps, fsd50k, parallel, prepared, vggsound
from sonolume.preprocessors.prepared import LeftOut, Outcome, load_wave, screen, world_rows
from sonolume.preprocessors.text_fields import Entry, labels_of, texts_of
from sonolume.utils import audio, manifest
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.files import sounds_in
from sonolume.utils.manifest import Row

SETTINGS_FILE = "sounds.json"
SETTINGS = ("sample_rate", "seconds", "text_field")  # that all sounds of a folder share
PARQUET = ".parquet"  # suffix of what the hub stores
MARGIN = 0.05  # seconds by which a clip may exceed `seconds` before it counts as longer
# pictures play no role here
_ALL_VIDEOS = PairsConfig(filter_frames=False, filter_unmatch_videos=False, filter_low_quality_imgs=False)


def prepare(
    config: SoundTextConfig, dataset: str, source: Path | None = None, media_dir: Path | None = None
) -> dict[str, int]:
    """Prepare a data set of sounds with texts, print a summary, and count the examples of each split.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: see the module. By default the miniature world if `config.miniworld` has scenes, else the data set that
            an earlier run prepared.
        media_dir: folder of the sound files of a table or manifest (default: that of the table).

    Raises:
        UserError: there is no input or no usable row, or the folder holds sounds of other settings.
        OSError: the disk is full; the same call continues from there.
    """
    folder = prepared.dataset_folder(config, dataset)
    path, settings = folder / SETTINGS_FILE, {name: getattr(config, name) for name in SETTINGS}
    if source is None and not config.miniworld.train_scenes:
        prepared.check_stored(config, path, settings)
        return prepared.count_examples(config, dataset, has_sound, "a sound")
    if source is None:
        entries: list[Entry] = [(row, {}) for row in world_rows(config, dataset, labels=True)]
        rows, left_out = _with_texts(entries, config)
        settings["input"] = asdict(config.miniworld)
    else:
        prepared.check_input(config, dataset, source)
        entries, left_out = _recordings(config, dataset, source, media_dir)
        found, without = _with_texts(entries, config)
        rows, screened_out = screen(found)
        left_out = left_out + without + screened_out
        settings |= {"input": str(source.resolve()), "media_dir": str(media_dir.resolve()) if media_dir else None}
    renamed = prepared.rename_colliding(rows, (".wav",))
    manifest.assign_splits(rows, config.valid_fraction)
    with prepared.cleanup(folder):
        if rows:
            prepared.store_settings(path, settings, f"remove {folder}, or choose another --dataset")
        work = functools.partial(_write_sound, folder=folder, config=config)
        outcomes = parallel.run(work, rows, config.num_workers, f"{dataset}: sounds")
        facts = {name: sum(outcome.counts.get(name, 0) for outcome in outcomes) for name in ("longer", "low_rate")}
        texts = {text for outcome in outcomes for row in outcome.examples for text in row.captions}
        counts = prepared.write(config, dataset, outcomes, left_out, renamed, texts=len(texts), **facts)
    print(f"{folder}: {len(texts):,} distinct texts (preprocess.text_field={config.text_field})")
    if facts["longer"]:
        print(f"{folder}: {facts['longer']:,} of {len(rows):,} clips are longer than {config.seconds:g} s: what "
              "follows is left out (preprocess.seconds)")  # fmt: skip
    if facts["low_rate"]:
        print(f"{folder}: {facts['low_rate']:,} sounds were recorded below {config.sample_rate} Hz")
    return counts


def read_split(config: SoundTextConfig, datasets: Sequence[str], split: str) -> list[Row]:
    """Read the rows of a split whose sounds exist; their captions are the texts.

    Args:
        split: "train", "valid" or "test".

    Raises:
        UserError: a data set is not prepared, or with other settings, or no row is usable.
    """
    settings = {name: getattr(config, name) for name in SETTINGS}
    for dataset in datasets:
        prepared.check_stored(config, prepared.dataset_folder(config, dataset) / SETTINGS_FILE, settings)
    return prepared.read_split(config, datasets, split, has_sound, "a sound", captions=True)


def has_sound(row: Row) -> bool:
    """Whether the sound of a row exists."""
    return bool(row.audio and row.audio.is_file())


def _recordings(
    config: SoundTextConfig, dataset: str, source: Path, media_dir: Path | None
) -> tuple[list[Entry], list[LeftOut]]:
    """Read rows with the columns from which their texts are taken, and the clips that cannot be used."""
    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest of sounds with labels or captions")
    if fsd50k.is_published(source):
        return fsd50k.read(source, dataset, config.text_field, media_dir)
    if audiocaps.tables(source):
        return [(row, {}) for row in audiocaps.read(source, dataset, media_dir)], []
    if vggsound.table_of(source):
        rows, left_out, _ = vggsound.read(source, dataset, _ALL_VIDEOS, media_dir)
        return [(row, {}) for row in rows], left_out
    if _has_only_parquet(source):
        raise UserError(f"{source}: parquet files are not read: save their sounds as files with a metadata.jsonl, as "
                        "egs/DATA.md shows for the FSD50K of the hub")  # fmt: skip
    return manifest.read_columns(source, dataset, ("Audio|Video",), media_dir), []


def _has_only_parquet(source: Path) -> bool:
    if source.is_file():
        return source.suffix == PARQUET
    has_manifest = any((source / name).is_file() for name in manifest.FOLDER_MANIFESTS)
    return not has_manifest and any(source.glob(f"**/*{PARQUET}")) and not sounds_in(source)


def _with_texts(entries: Sequence[Entry], config: SoundTextConfig) -> tuple[list[Row], list[LeftOut]]:
    """Set captions and label of each row; leave out rows without a text, unless their sound is missing, too."""
    rows, left_out = [], []
    for row, columns in entries:
        labels = labels_of(row, columns)
        texts = texts_of(row, columns, config.text_field)
        sound = row.audio or row.video
        changed: dict[str, Any] = {"label": labels[0] if labels else None, "image": None, "video": None}
        kept = replace(row, captions=texts, audio=sound, **changed)
        if texts or (sound and not sound.is_file()):
            rows.append(kept)
        else:
            left_out.append(LeftOut.of(kept, "no text", f"nothing for preprocess.text_field={config.text_field}"))
    return rows, left_out


def _write_sound(row: Row, folder: Path, config: SoundTextConfig) -> Outcome:
    """Write the sound of a row, unless an earlier run did and its recording is still the same."""
    path = folder / config.audio_dir / f"{row.uid}.wav"
    if path.is_file() and not prepared.is_outdated(row, path):
        return Outcome((replace(row, audio=path, duration=prepared.stored_seconds(path)),), reused=True)
    wanted = round(config.seconds * config.sample_rate)
    try:
        wave = load_wave(row, config.sample_rate, config.seconds + MARGIN)
        audio.check_wave(wave[:wanted], config.sample_rate, str(row.audio or ""), config.min_seconds)
    except SoundError as error:
        return Outcome(left_out=LeftOut.of(row, error.reason, str(error)))
    audio.save_wav(path, wave[:wanted], config.sample_rate)
    example = replace(row, audio=path, duration=round(len(wave[:wanted]) / config.sample_rate, 3))
    longer = len(wave) >= round((config.seconds + MARGIN) * config.sample_rate)
    return Outcome((example,), counts={"longer": longer, "low_rate": prepared.is_low_rate(row, config.sample_rate)})
