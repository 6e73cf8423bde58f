"""Sounds with captions -> {processed_dir}/{Dataset}: mel/{Uid}.npy, train.json, valid.json, and report.json.

The sounds are recordings (a folder or a manifest) or scenes of the miniature world. Their log-mel features are computed
in parallel; a second run reuses them, and continues where an interrupted one stopped.
"""

import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonolume.config.base import PreprocessConfig
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors import audiocaps, parallel, prepared
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.prepared import LeftOut, Outcome, load_wave, screen, world_rows
from sonolume.utils import audio
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.files import atomic_path, write_json
from sonolume.utils.manifest import Row, assign_splits, read_manifest

RAW_FOLDER = "raw"  # inside a data set: recordings that are read without --input
MIN_SECONDS = 0.1  # shorter clips are left out, and so are shorter last windows
_extractor = functools.cache(MelSpectrogram)


@dataclass(frozen=True)
class Plan:
    """Settings of the features, and their folder."""

    folder: Path
    mel: MelSettings
    frames: int  # most frames of one window
    windows: int  # most windows of one clip; with more than one they are called Uid_w0, Uid_w1 ...

    @property
    def seconds(self) -> float:
        """Longest part of a clip that is used."""
        return self.windows * self.frames * self.mel.hop_size / self.mel.sample_rate

    def window_uid(self, uid: str, index: int) -> str:
        return uid if self.windows == 1 else f"{uid}_w{index}"

    def path(self, uid: str) -> Path:
        return self.folder / f"{uid}.npy"  # a Uid may contain dots

    def existing(self, uid: str, start: int = 0) -> list[Path]:
        """The files of consecutive windows from `start` on, up to the first that is missing."""
        paths = (self.path(self.window_uid(uid, index)) for index in range(start, self.windows))
        return list(itertools.takewhile(Path.is_file, paths))

    def settings(self, origin: dict[str, Any] | None = None) -> dict[str, Any]:
        """The settings that features of one folder have in common, with the origin of their rows."""
        return asdict(self.mel) | {"frames": self.frames, "windows": self.windows} | (origin or {})

    def check(self, origin: dict[str, Any] | None = None) -> None:
        """Raise a UserError, which names each difference, unless the stored features are of these settings."""
        remedy = f"remove {self.folder}, or set preprocess.melspec_dir or the name of the data set to another"
        prepared.check_settings(self.folder / prepared.SETTINGS_FILE, self.settings(origin), remedy)


def prepare(
    config: PreprocessConfig, dataset: str, source: Path | None = None, captions: bool = True,
    audio_dir: Path | None = None,
) -> dict[str, int]:  # fmt: skip
    """Prepare a data set for training, print a summary, and count the examples of each split.

    Args:
        dataset: the folder's name in `config.processed_dir`.
        source: a folder or manifest of recordings, or AudioCaps as published. By default the miniature world if
            `config.miniworld` has scenes, else {processed_dir}/{dataset}/raw, else the data set that an earlier run
            prepared.
        captions: leave out clips without one.
        audio_dir: folder of the sound files of a manifest (default: the manifest's).

    Raises:
        UserError: there is no input or no usable row, or the folder holds features of other settings.
        OSError: the disk is full; the same call continues from there.
    """
    folder = prepared.dataset_folder(config, dataset)
    try:
        plan = Plan(folder / config.melspec_dir, MelSettings.of(config), config.frames, config.windows)
    except ValueError as error:
        raise UserError(f"preprocess: {error}") from error
    if source is None and not config.miniworld.train_scenes:
        source = folder / RAW_FOLDER
        if not source.exists() and (folder / config.train_file).is_file():  # prepared by an earlier run, or elsewhere
            if (plan.folder / prepared.SETTINGS_FILE).is_file():
                plan.check()
            return prepared.count_examples(config, dataset, lambda row: plan.path(row.uid).is_file(), "features")
    rows, left_out = read_input(config, dataset, source, captions, audio_dir)
    origin = origin_of(config, source, audio_dir)
    renamed = prepared.rename_colliding(rows, (".npy",))
    assign_splits(rows, config.valid_fraction)
    with prepared.cleanup(folder):
        outcomes = compute(rows, plan, origin, config.num_workers)
        longer = sum(outcome.counts.get("longer", 0) for outcome in outcomes)
        counts = prepared.write(config, dataset, outcomes, left_out, renamed, longer=longer)
    if longer:
        print(f"{folder}: {longer:,} of {len(rows):,} clips are longer than {plan.seconds:g} s: what follows is left "
              f"out (preprocess.windows={plan.windows + 1} takes more)")  # fmt: skip
    return counts


def origin_of(config: PreprocessConfig, source: Path | None, audio_dir: Path | None) -> dict[str, Any]:
    """Source of the rows, stored with the settings of their features; without `source`, the miniature world."""
    if source is not None:
        return {"input": str(source.resolve()), "audio_dir": str(audio_dir.resolve()) if audio_dir else None}
    mini = config.miniworld
    origin = {"input": "miniworld", "world": WORLD, "seed": mini.seed}
    return origin | {"kinds": list(mini.kinds), "pairs": mini.pairs}


def read_input(
    config: PreprocessConfig, dataset: str, source: Path | None, captions: bool, audio_dir: Path | None
) -> tuple[list[Row], list[LeftOut]]:
    """Read the rows to prepare, and those that are left out before any sound is opened.

    Args:
        source: as of `prepare`; None for the miniature world.
    """
    if source is None:
        return world_rows(config, dataset), []
    prepared.check_input(config, dataset, source)
    return screen(_recordings(source, dataset, audio_dir), captions)


def _recordings(source: Path, dataset: str, audio_dir: Path | None) -> list[Row]:
    if not source.exists():
        raise UserError(
            f"{source}: no such folder or manifest. Put recordings there, each with its captions in a .txt file of the "
            f"same name or all in a captions.csv (Uid, Audio, Caption), or name yours with --input; "
            "egs/tta/autoencoderkl/tiny.json needs no recordings"
        )
    if audiocaps.tables(source):
        return audiocaps.read(source, dataset, audio_dir)
    rows = read_manifest(source, dataset, require=("Audio|Video",), files_in=audio_dir)
    return [replace(row, audio=row.audio or row.video) for row in rows]


def compute(rows: Sequence[Row], plan: Plan, origin: dict[str, Any], num_workers: int = 1) -> list[Outcome]:
    """Compute the features of all rows that have none yet, in at most `num_workers` processes.

    A folder holds features of one setting and of rows of one `origin`; others are a UserError.
    """
    if not rows:
        return []
    if next(plan.folder.glob("**/*.npy"), None):
        plan.check(origin)
    else:
        write_json(plan.folder / prepared.SETTINGS_FILE, plan.settings(origin))
    work = functools.partial(_compute_clip, plan=plan)
    return parallel.run(work, rows, num_workers, f"{rows[0].dataset}: mel features")


def _compute_clip(row: Row, plan: Plan) -> Outcome:
    """Write the windows of one clip, unless an earlier run did; the examples have the length of their window."""
    lengths, mel = _existing_lengths(row, plan), plan.mel
    reused, is_longer = bool(lengths), False
    if not reused:
        try:
            wave = _load(row, plan)
        except SoundError as error:
            return Outcome(left_out=LeftOut.of(row, error.reason, str(error)))
        lengths = _write_windows(row.uid, wave, plan)
        is_longer = row.audio is not None and len(wave) > plan.seconds * mel.sample_rate + mel.hop_size
    examples = tuple(_example(row, plan, index, frames) for index, frames in enumerate(lengths))
    return Outcome(examples, reused=reused, counts={"longer": int(is_longer)})


def windows(row: Row, plan: Plan) -> list[tuple[Row, np.ndarray]]:
    """Examples of one clip with their mels (bands, frames); a SoundError says why a clip cannot be used."""
    wave = _load(row, plan)
    return [(_example(row, plan, index, stop - start), _window(wave, start, stop, plan.mel))
            for index, (start, stop) in enumerate(_spans(len(wave), plan))]  # fmt: skip


def _load(row: Row, plan: Plan) -> np.ndarray:
    """Load the wave (n,) of a row as far as it is used; raises a SoundError if it cannot be."""
    mel = plan.mel
    samples = plan.windows * plan.frames * mel.hop_size + mel.n_fft  # the last frames reach past the last window
    wave = load_wave(row, mel.sample_rate, samples / mel.sample_rate)
    shortest = max(MIN_SECONDS, (mel.padding + 1) / mel.sample_rate)
    audio.check_wave(wave, mel.sample_rate, str(row.audio or ""), shortest)
    return wave


def _example(row: Row, plan: Plan, index: int, frames: int) -> Row:
    hop = plan.mel.hop_size / plan.mel.sample_rate  # seconds
    return replace(row, uid=plan.window_uid(row.uid, index), duration=round(frames * hop, 3))


def _existing_lengths(row: Row, plan: Plan) -> list[int]:
    """Return the frames of each window of an earlier run; [] without one, or if the recording changed or is gone."""
    paths, lengths = plan.existing(row.uid), []
    if paths and prepared.is_outdated(row, paths[0]):
        return []
    for path in paths:
        try:
            lengths.append(np.load(path, mmap_mode="r").shape[1])
        except (ValueError, EOFError, IndexError) as error:
            raise UserError(f"{path}: not a feature file ({error}); remove it and run again") from error
    return lengths


def _write_windows(uid: str, wave: np.ndarray, plan: Plan) -> list[int]:
    """Write the windows of a clip, the first one last, so that it proves the others; return their lengths in frames."""
    spans = _spans(len(wave), plan)
    for path in plan.existing(uid, len(spans)):  # windows of an earlier, longer recording
        path.unlink()
    for index, (start, stop) in reversed(list(enumerate(spans))):
        memory = io.BytesIO()  # np.save hides the system's error (disk full); write_bytes raises it
        np.save(memory, _window(wave, start, stop, plan.mel))
        with atomic_path(plan.path(plan.window_uid(uid, index))) as temporary:
            temporary.write_bytes(memory.getbuffer())
    return [stop - start for start, stop in spans]


def _spans(samples: int, plan: Plan) -> list[tuple[int, int]]:
    """First and last frame of each window of a wave."""
    total = samples // plan.mel.hop_size
    shortest = min(total, round(MIN_SECONDS / (plan.mel.hop_size / plan.mel.sample_rate)))
    starts = [start for start in range(0, plan.windows * plan.frames, plan.frames) if total - start >= shortest]
    return [(start, min(start + plan.frames, total)) for start in starts]


def _window(wave: np.ndarray, start: int, stop: int, settings: MelSettings) -> np.ndarray:
    """Compute frames [start, stop) of the whole wave's mel (bands, stop - start) from no more samples than needed."""
    hop = settings.hop_size
    before = min(start, -(-settings.padding // hop))  # extra frames, computed in place of a reflected beginning
    samples = torch.from_numpy(wave[(start - before) * hop : (stop + before) * hop + settings.n_fft])
    mel = _extractor(settings)(samples[None])[0, :, before : before + stop - start]
    return np.ascontiguousarray(mel.numpy(), dtype=np.float32)
