"""Log-mel features of many clips: computed in parallel, kept as {folder}/{Uid}.npy, and reused when they are there."""

import functools
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.preprocessors.parallel import ordered
from sonolume.preprocessors.refusals import MIN_SECONDS, of_wave
from sonolume.utils import audio
from sonolume.utils.audio import SoundError
from sonolume.utils.errors import UserError
from sonolume.utils.files import atomic_path, write_json

if TYPE_CHECKING:
    from sonolume.preprocessors.miniworld.scene import Scene

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Clip:
    """One sound to analyse: a file, or a scene of the miniature world."""

    uid: str
    source: "Path | Scene"


@dataclass(frozen=True)
class Plan:
    """How clips are analysed and where the features go."""

    folder: Path
    mel: MelSettings
    frames: int
    """most frames of one window"""
    windows: int
    """most windows of one clip; with more than one they are called Uid_w0, Uid_w1 ..."""

    def window_uid(self, uid: str, index: int) -> str:
        return uid if self.windows == 1 else f"{uid}_w{index}"

    def path(self, uid: str) -> Path:
        return self.folder / f"{uid}.npy"  # a Uid may hold dots

    @property
    def hop_seconds(self) -> float:
        return self.mel.hop_size / self.mel.sample_rate


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: its windows as (uid, seconds), or a reason of refusal."""

    uid: str
    windows: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    detail: str = ""
    reused: bool = False


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Mark `folder` as holding features made with `settings`, before the first is written.

    Raises:
        UserError: it holds features made with others; names each that differs.
    """
    path = folder / SETTINGS_FILE
    if next(folder.glob("**/*.npy"), None) is None:
        write_json(path, settings)
    elif path.is_file():
        check_settings(folder, settings)
    else:
        raise UserError(f"{folder}: holds features but no {SETTINGS_FILE}; {_remedy(folder)}")


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise a UserError unless every one of `settings` is that of the folder."""
    try:
        old = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SETTINGS_FILE}: not valid json ({error}); {_remedy(folder)}") from error
    changes = [f"{key} {old.get(key)} (now {new})" for key, new in settings.items() if old.get(key) != new]
    if changes:
        raise UserError(f"{folder}: holds features of other settings: {', '.join(changes)}; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"remove {folder} to make them anew, or set preprocess.melspec_dir or the data set's name to another"


def compute(clips: Sequence[Clip], plan: Plan, num_workers: int = 1) -> Iterator[Outcome]:
    """Outcomes in the order of the clips; `num_workers` processes, none but this one for 0 or 1.

    Each process computes with one thread, so that features are the same, bit by bit, however many there are.

    Raises:
        MemoryError: the system killed a process.
        OSError: a feature could not be written; it names the file.
    """
    return ordered(functools.partial(compute_one, plan=plan), clips, num_workers)


def compute_one(clip: Clip, plan: Plan) -> Outcome:
    """Write the windows of one clip, unless they are there already."""
    reused = _reuse(clip, plan)
    if reused:
        return Outcome(clip.uid, reused, reused=True)
    try:
        wave = _wave(clip.source, plan)
    except SoundError as error:
        return Outcome(clip.uid, reason=error.reason, detail=str(error))
    least = max(MIN_SECONDS, (plan.mel.padding + 1) / plan.mel.sample_rate)
    reason, detail = of_wave(wave, plan.mel.sample_rate, least)
    if reason:
        return Outcome(clip.uid, reason=reason, detail=detail)
    return Outcome(clip.uid, _write_windows(clip.uid, wave, plan))


@functools.cache
def _extractor(settings: MelSettings) -> MelSpectrogram:
    return MelSpectrogram(settings)


def _wave(source: "Path | Scene", plan: Plan) -> np.ndarray:
    """(n,) with the samples past the last window that its last frames still see."""
    if isinstance(source, Path):
        samples = plan.windows * plan.frames * plan.mel.hop_size + plan.mel.n_fft
        return audio.load(source, plan.mel.sample_rate, seconds=samples / plan.mel.sample_rate)
    from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

    return world.render(source)


def _write_windows(uid: str, wave: np.ndarray, plan: Plan) -> tuple[tuple[str, float], ...]:
    """The first window is written last, so that its presence says that all are there."""
    total = len(wave) // plan.mel.hop_size
    shortest = min(total, round(MIN_SECONDS / plan.hop_seconds))
    starts = [start for start in range(0, plan.windows * plan.frames, plan.frames) if total - start >= shortest]
    _remove_windows(uid, len(starts), plan)
    written = []
    for index, start in reversed(list(enumerate(starts))):
        name = plan.window_uid(uid, index)
        part = _window(wave, start, min(start + plan.frames, total), plan.mel)
        _save(plan.path(name), part)
        written.append((name, part.shape[1] * plan.hop_seconds))
    return tuple(reversed(written))


def _window(wave: np.ndarray, start: int, stop: int, mel: MelSettings) -> np.ndarray:
    """(bands, stop - start): these frames of the whole wave's mel, from no more samples than they see."""
    before = min(start, -(-mel.padding // mel.hop_size))  # frames whose only use is to be there instead of a reflection
    seen = wave[(start - before) * mel.hop_size : (stop + before) * mel.hop_size + mel.n_fft]
    return _extractor(mel)(torch.from_numpy(seen)[None])[0, :, before : before + stop - start].numpy()


def _save(path: Path, part: np.ndarray) -> None:
    memory = io.BytesIO()  # numpy hides the system's error (disk full); write_bytes raises it
    np.save(memory, np.ascontiguousarray(part, dtype=np.float32))
    with atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def _remove_windows(uid: str, start: int, plan: Plan) -> None:
    """Those that the clip had when it was longer."""
    for path in _present(uid, start, plan):
        path.unlink()


def _present(uid: str, start: int, plan: Plan) -> list[Path]:
    """The windows that are there, one after the other."""
    paths = (plan.path(plan.window_uid(uid, index)) for index in range(start, plan.windows))
    return list(itertools.takewhile(Path.is_file, paths))


def _reuse(clip: Clip, plan: Plan) -> tuple[tuple[str, float], ...]:
    """The windows of an earlier run, or () if there are none or the sound is newer."""
    paths = _present(clip.uid, 0, plan)
    if not paths or (isinstance(clip.source, Path) and _is_newer(clip.source, paths[0])):
        return ()
    return tuple(
        (plan.window_uid(clip.uid, index), _frames(path) * plan.hop_seconds) for index, path in enumerate(paths)
    )


def _is_newer(source: Path, feature: Path) -> bool:
    """True as well when the source is gone, so that it is looked for and reported.

    The time of the last change of the file's entry counts too: a file put there by `cp -p` or `tar` brings an old time
    of modification with it.
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
