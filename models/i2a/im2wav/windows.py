"""Windows of equal length from sounds of any length, for the training of Im2Wav.

W samples of a window.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.i2a.im2wav import FilmsConfig
from sonolume.utils import audio
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row


class Place(NamedTuple):
    """The sound of a window, and the sample at which the window begins in it."""

    sound: int
    offset: int


class Draws(NamedTuple):
    """Random numbers of an item."""

    shift: int = 0  # samples by which the window is moved
    weight: float = 0.5  # of the left channel
    picture: float = 1.0  # 0 to 1; below `still_fraction`, a picture is used in place of the video
    moment: float = 0.5  # 0 to 1, the time of that picture in the window


class SoundWindows(Dataset[Tensor]):
    """Waves (W,) of windows of a list of sounds, without shift; `read` takes shifts and weights of the channels.

    Window i covers the samples from i W of the concatenation of all sounds, moved by up to W / 2 into the sound that
    contains its middle, so that no window crosses two sounds. Every sound has at least one window. A sound that is
    shorter than a window is followed by silence.

    Args:
        longest: samples of each sound that are used.
    """

    def __init__(self, rows: Sequence[Row], config: FilmsConfig, longest: int) -> None:
        self.rows, self.size, self.sample_rate = rows, config.window, config.sample_rate
        self.files = [row.audio for row in rows if row.audio]  # every row has one
        self.lengths = np.array([min(self._length(file), longest) for file in self.files], np.int64)
        self.ends = np.cumsum(np.maximum(self.lengths, self.size))

    def _length(self, path: Path) -> int:
        facts = soundfile.info(audio.encoded(path))
        if facts.samplerate != self.sample_rate:
            raise UserError(f"{path}: has {facts.samplerate} Hz, preprocess.sample_rate is {self.sample_rate}: "
                            "prepare the data again with this value, under another --dataset")  # fmt: skip
        return facts.frames

    def __len__(self) -> int:
        total = int(self.ends[-1]) if len(self.ends) else 0
        return (2 * total + self.size) // (2 * self.size)  # to the nearest: the middle of each is in a sound

    def place(self, number: int, shift: int = 0) -> Place:
        """Find window `number`, moved by `shift` samples of at most W / 2."""
        half, start = self.size // 2, number * self.size + shift
        sound = min(int(np.searchsorted(self.ends, start + half)), len(self.ends) - 1)
        end = int(self.ends[sound])
        begin = end - max(int(self.lengths[sound]), self.size)
        if start > end - self.size:
            start = max(begin, start - half)
        elif start < begin:
            start = min(end - self.size, start + half)
        return Place(sound, min(start, end - self.size) - begin)

    def read(self, place: Place, weight: float = 0.5) -> Tensor:
        """The wave (W,) of a window; `weight` of the first of two channels."""
        with soundfile.SoundFile(audio.encoded(self.files[place.sound])) as file:
            file.seek(place.offset)
            wave = file.read(min(self.size, file.frames - place.offset), dtype="float32", always_2d=True)
        mixed = weight * wave[:, 0] + (1 - weight) * wave[:, 1] if wave.shape[1] > 1 else wave[:, 0]
        return torch.from_numpy(np.pad(mixed.astype(np.float32), (0, self.size - len(wave))))

    def __getitem__(self, number: int) -> Tensor:
        return self.read(self.place(number))

    def versions(self) -> list[Any]:
        """Everything that decides the waves, for the key of a cache."""
        rows = zip(self.rows, self.files, strict=True)
        written = [(row.dataset, row.uid, file.stat().st_mtime_ns) for row, file in rows]
        return [self.sample_rate, self.size, self.lengths.tolist(), written]


def draw(seed: int, epoch: int, number: int, size: int) -> Draws:
    """Draw the random numbers of an item, always the same for the same arguments."""
    random = np.random.default_rng([seed, epoch, number])
    shift = int(random.integers(-(size // 2), size - size // 2))
    return Draws(shift, *random.uniform(size=3).tolist())
