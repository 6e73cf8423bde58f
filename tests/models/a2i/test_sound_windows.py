"""Windows of sounds without pictures, and cached features of an encoder without weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sonolume.config.audio_to_image import SoundWindowsConfig
from sonolume.config.base import TrainConfig
from sonolume.models.a2i.frozen import cached_features
from sonolume.models.a2i.sound_windows import Windows
from sonolume.utils import audio
from sonolume.utils.errors import ConfigError
from sonolume.utils.manifest import Row

RATE = 16000


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Sounds of 0.5, 1.5 and 30 s with captions, the last one without a known duration."""
    random, found = np.random.default_rng(0), []
    for uid, seconds in (("short", 0.5), ("long", 1.5), ("unknown", 30.0)):
        audio.save_wav(tmp_path / f"{uid}.wav", random.normal(0, 0.1, round(seconds * RATE)), RATE)
        duration = seconds if uid != "unknown" else None
        found.append(Row("set", uid, tmp_path / f"{uid}.wav", ["rain falls"], duration=duration))
    return found


CONFIG = {"input_length": 1.0, "starts": 3, "seconds": 10.0}


def test_windows_are_numbered_over_all_sounds(rows: list[Row]):
    windows = Windows(rows, SoundWindowsConfig(**CONFIG), RATE)
    assert len(windows) == 5 and windows.first.tolist() == [0, 1, 4, 5] and windows.sounds.tolist() == [0, 1, 1, 1, 2]
    assert windows.starts.tolist() == [0, 0, 0.25, 0.5, 0]
    waves = [torch.from_numpy(audio.load(row.audio, RATE)) for row in rows if row.audio]
    assert windows[0].equal(waves[0].repeat(2)) and windows[2].equal(waves[1][4000:20000])
    assert windows[4].equal(waves[2][:RATE])
    random = np.random.default_rng(0)
    assert {windows.draw(1, random) for _ in range(50)} == {1, 2, 3}


def test_a_front_end_may_want_short_sounds_as_they_are(rows: list[Row]):
    plain, repeated = (Windows(rows, SoundWindowsConfig(**CONFIG), RATE, repeat) for repeat in (False, True))
    assert plain[0].shape == (8000,) and plain[1].equal(repeated[1])
    assert plain.versions() != repeated.versions()
    assert json.dumps(plain.versions())  # plain values, for the key of a cache


def test_lengths_that_do_not_fit():
    with pytest.raises(ConfigError, match="0.2 <= input_length 5 <= seconds 3"):
        SoundWindowsConfig(seconds=3.0)
    with pytest.raises(ConfigError, match="0 < min_seconds 4 <= seconds 3"):
        SoundWindowsConfig(seconds=3.0, min_seconds=4.0, input_length=1.0)


def test_features_of_an_encoder_without_weights(rows: list[Row], tmp_path: Path):
    """Cached by its identity; batches may be lists of waves of any lengths."""
    windows = Windows(rows, SoundWindowsConfig(**CONFIG), RATE, repeat=False)
    calls: list[int] = []

    def loudness(waves: list[torch.Tensor]) -> torch.Tensor:
        calls.append(len(waves))
        return torch.stack([wave.square().mean() for wave in waves])[:, None]

    train = TrainConfig(num_workers=0, accelerator="cpu")

    def features(identity: str) -> np.ndarray:
        more = {"dtype": np.float32, "collate": list, "identity": identity}
        return cached_features(tmp_path / "cache", "loudness", windows, None, loudness, train, **more)

    found = features("front end, frames 375")
    assert found.shape == (5, 1) and calls == [5]
    assert found[0, 0] == pytest.approx(windows[0].square().mean().item())
    assert np.array_equal(features("front end, frames 375"), found) and calls == [5]
    features("front end, frames 607")
    assert calls == [5, 5]
