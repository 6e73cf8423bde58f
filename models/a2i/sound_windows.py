"""Windows of prepared sounds, numbered over all sounds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.audio_to_image import SoundWindowsConfig
from sonolume.models.a2i.sound_encoder import repeat_to_length
from sonolume.utils import audio
from sonolume.utils.manifest import Row


class Windows(Dataset[Tensor]):
    """Waves (n,) of all windows.

    Args:
        rows: sounds with their files; those whose duration is unknown have one window.
        repeat: repeat a sound that ends before its window does, so that all waves have n samples; otherwise its wave
            is shorter.

    Attributes:
        starts: second at which each window begins.
        first: number of the first window of each sound; those of sound i are `first[i]` to `first[i + 1]`.
    """

    def __init__(
        self, rows: Sequence[Row], config: SoundWindowsConfig, sample_rate: int, repeat: bool = True
    ) -> None:
        self.rows, self.sample_rate, self.repeat = rows, sample_rate, repeat
        self.length = config.input_length  # seconds
        self.starts, self.first = concatenate([window_starts(row, config) for row in rows])
        self.sounds = np.repeat(np.arange(len(rows)), np.diff(self.first))  # number of the sound of each window

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, number: int) -> Tensor:
        start, path = float(self.starts[number]), self.rows[self.sounds[number]].audio
        assert path is not None
        wave = audio.load(path, self.sample_rate, seconds=start + self.length)
        first = round(start * self.sample_rate)
        window = torch.from_numpy(wave[first:])
        return repeat_to_length(window, round(self.length * self.sample_rate)) if self.repeat else window

    def draw(self, index: int, random: np.random.Generator) -> int:
        """Draw the number of a window of sound `index`."""
        return int(random.integers(self.first[index], self.first[index + 1]))

    def versions(self) -> list[Any]:
        """Everything that decides the waves, for the key of a cache."""
        written = [(row.dataset, row.uid, row.audio.stat().st_mtime_ns) for row in self.rows if row.audio]
        decisive = [self.sample_rate, self.length, self.starts.tolist(), written]
        return decisive if self.repeat else [*decisive, "not repeated"]


def window_starts(row: Row, config: SoundWindowsConfig) -> list[float]:
    """Seconds at which the windows of a sound begin, evenly spaced; the last window ends with the sound."""
    room = min(row.duration or 0.0, config.seconds) - config.input_length
    return np.linspace(0, room, config.starts).tolist() if room > 0 and config.starts > 1 else [0.0]


def concatenate(groups: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate N groups of numbers; also return where each begins (N + 1,)."""
    firsts = np.cumsum([0] + [len(group) for group in groups])
    return np.array([value for group in groups for value in group], np.float64), firsts
