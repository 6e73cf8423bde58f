"""Log-mel features of many clips, computed in parallel, stored as {folder}/{Uid}.npy and reused by later runs."""

import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors import parallel
from sonolume.preprocessors.prepared import check_settings
from sonolume.preprocessors.sources import load_wave
from sonolume.utils import audio
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.files import atomic_path, write_json
from sonolume.utils.manifest import Row

SETTINGS_FILE = "settings.json"
MIN_SECONDS = 0.1  # shorter clips are left out, and so are shorter last windows
CLIPS_PER_WORKER = 50  # clips for which a process is worth its start


@dataclass(frozen=True)
class Plan:
    """Settings of the features, and their folder."""

    folder: Path
    mel: MelSettings
    frames: int
    """most frames of one window"""
    windows: int
    """most windows of one clip; with more than one they are called Uid_w0, Uid_w1 ..."""

    def window_uid(self, uid: str, index: int) -> str:
        return uid if self.windows == 1 else f"{uid}_w{index}"

    def path(self, uid: str) -> Path:
        return self.folder / f"{uid}.npy"  # a Uid may contain dots

    def existing(self, uid: str, start: int = 0) -> list[Path]:
        """The files of consecutive windows from `start` on, up to the first that is missing."""
        paths = (self.path(self.window_uid(uid, index)) for index in range(start, self.windows))
        return list(itertools.takewhile(Path.is_file, paths))

    @property
    def hop_seconds(self) -> float:
        return self.mel.hop_size / self.mel.sample_rate

    @property
    def seconds(self) -> float:
        """Length of all windows, with the samples past the last one that its last frames cover."""
        return (self.windows * self.frames * self.mel.hop_size + self.mel.n_fft) / self.mel.sample_rate

    def settings(self) -> dict[str, Any]:
        """The settings that features of one folder have in common."""
        return asdict(self.mel) | {"frames": self.frames, "windows": self.windows}

    def check(self, settings: dict[str, Any]) -> None:
        """Raise a UserError, which names each difference, unless the features were made with `settings`."""
        remedy = f"remove {self.folder}, or set preprocess.melspec_dir or the name of the data set to another"
        check_settings(self.folder / SETTINGS_FILE, settings, remedy)


@dataclass(frozen=True)
class Outcome:
    """Result of one clip: its windows as (uid, seconds), or the reason why it was left out."""

    windows: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    detail: str = ""
    reused: bool = False


def compute(rows: Sequence[Row], plan: Plan, origin: dict[str, Any], num_workers: int = 1) -> list[Outcome]:
    """Compute the features of all rows that have none yet.

    Args:
        origin: where the rows come from; one folder holds the features of one origin.
        num_workers: processes at most; see `parallel.run`.

    Raises:
        UserError: the folder holds features of other settings or another origin.
        MemoryError: the system killed a process.
        OSError: a file cannot be written; the error names it.
    """
    if not rows:
        return []
    settings = plan.settings() | origin
    if next(plan.folder.glob("**/*.npy"), None) is None:
        write_json(plan.folder / SETTINGS_FILE, settings)
    else:
        plan.check(settings)
    work = functools.partial(compute_one, plan=plan)
    return parallel.run(work, rows, num_workers, f"{rows[0].dataset}: mel features", CLIPS_PER_WORKER)


def compute_one(row: Row, plan: Plan) -> Outcome:
    """Write the windows of one clip, unless an earlier run did."""
    reused = _reuse(row, plan)
    if reused:
        return Outcome(reused, reused=True)
    rate = plan.mel.sample_rate
    try:
        wave = load_wave(row, rate, plan.seconds)
        audio.check_wave(wave, rate, str(row.audio or ""), max(MIN_SECONDS, (plan.mel.padding + 1) / rate))
    except SoundError as error:
        return Outcome(reason=error.reason, detail=str(error))
    return Outcome(_write_windows(row.uid, wave, plan))


@functools.cache
def _extractor(settings: MelSettings) -> MelSpectrogram:
    return MelSpectrogram(settings)


def _write_windows(uid: str, wave: np.ndarray, plan: Plan) -> tuple[tuple[str, float], ...]:
    """Write the first window last: if it exists, all others do."""
    total = len(wave) // plan.mel.hop_size
    shortest = min(total, round(MIN_SECONDS / plan.hop_seconds))
    starts = [start for start in range(0, plan.windows * plan.frames, plan.frames) if total - start >= shortest]
    for path in plan.existing(uid, len(starts)):  # windows of an earlier, longer recording
        path.unlink()
    written = []
    for index, start in reversed(list(enumerate(starts))):
        name = plan.window_uid(uid, index)
        part = _window(wave, start, min(start + plan.frames, total), plan.mel)
        _save(plan.path(name), part)
        written.append((name, part.shape[1] * plan.hop_seconds))
    return tuple(reversed(written))


def _window(wave: np.ndarray, start: int, stop: int, mel: MelSettings) -> np.ndarray:
    """Compute frames [start, stop) of the whole wave's mel (bands, stop - start) from no more samples than needed."""
    before = min(start, -(-mel.padding // mel.hop_size))  # extra frames, computed in place of a reflected beginning
    samples = wave[(start - before) * mel.hop_size : (stop + before) * mel.hop_size + mel.n_fft]
    return _extractor(mel)(torch.from_numpy(samples)[None])[0, :, before : before + stop - start].numpy()


def _save(path: Path, part: np.ndarray) -> None:
    memory = io.BytesIO()  # np.save hides the system's error (disk full); write_bytes raises it
    np.save(memory, np.ascontiguousarray(part, dtype=np.float32))
    with atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def _reuse(row: Row, plan: Plan) -> tuple[tuple[str, float], ...]:
    """Return the windows of an earlier run, or () if there are none or the recording is newer."""
    paths = plan.existing(row.uid)
    if not paths or (row.audio is not None and _is_newer(row.audio, paths[0])):
        return ()
    lengths = (_frames(path) * plan.hop_seconds for path in paths)
    return tuple((plan.window_uid(row.uid, index), seconds) for index, seconds in enumerate(lengths))


def _is_newer(source: Path, feature: Path) -> bool:
    """Whether a recording changed after its features were made, or is gone (and is to be reported).

    The change time counts too: `cp -p` and `tar` keep an old modification time.
    """
    if not source.is_file():
        return True
    times = source.stat()
    return max(times.st_mtime_ns, times.st_ctime_ns) > feature.stat().st_mtime_ns


def _frames(path: Path) -> int:
    try:
        return np.load(path, mmap_mode="r").shape[1]
    except (ValueError, EOFError, IndexError) as error:
        raise UserError(f"{path}: not a feature file ({error}); remove it and run again") from error
