"""Data of the vocoder: waves beside the mel features that were computed from them.

Waves are kept under {processed_dir}/{dataset}/cache/, keyed by a hash of the clips, as one flat array of 16-bit samples
that is memory-mapped, so that many workers share it.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from sonolume.config.tta.hifigan import Config, HifiGanPreprocessConfig
from sonolume.models.training import TrainingData
from sonolume.models.tta.autoencoderkl import model as autoencoder
from sonolume.models.tta.features import SILENCE, load_mel, mel_path, read_rows
from sonolume.preprocessors import text_audio
from sonolume.utils import audio, files, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

SCALE = 32767.0  # of 16-bit samples
CLIP_BATCH = 16  # clips of one forward pass of the VAE


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Recordings or scenes -> manifest and mel features, as the other tta recipes make them."""
    text_audio.prepare(config.preprocess, args.dataset, args.input, captions=False, audio_dir=args.audio_dir)


def training_data(config: Config) -> TrainingData:
    """Batches: mel (B, M, T) and wave (B, T * hop_size), segments in training, whole clips in validation."""
    train, valid = (WaveDataset(config, split) for split in ("train", "valid"))
    return TrainingData(train, valid, default_collate)


class WaveDataset(Dataset[tuple[Tensor, Tensor]]):
    """(mel (M, T), wave (T * hop,)) of one split; a segment drawn from (seed, epoch, index) in training."""

    def __init__(self, config: Config, split: str) -> None:
        self.config, self.split = config.preprocess, split
        self.rows = read_rows(self.config, config.dataset, split)
        if split == "train" and 0 < self.config.train_clips < len(self.rows):
            chosen = np.linspace(0, len(self.rows) - 1, self.config.train_clips).astype(int)
            self.rows = [self.rows[index] for index in chosen]
        folder = paths.resolve(self.config.processed_dir) / config.dataset[0] / "cache"
        self.waves = np.load(_waves(self.config, self.rows, folder) / "waves.npy", mmap_mode="r")  # (N, samples)
        self.seed = config.train.random_seed
        self.reconstructed = None
        if split == "train" and config.model.reconstruct:
            cached = _reconstructed(config, self.rows, folder)
            self.reconstructed = np.load(cached / "mels.npy", mmap_mode="r")  # (N, M, frames)
        self.share = config.model.reconstruct_prob

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = item
        if self.split != "train":
            return self._mel(index, False), self._wave(index, 0, self.config.frames)
        random = np.random.default_rng([self.seed, epoch, index])
        mel = self._mel(index, bool(random.uniform() < self.share))
        frames = self.config.segment_size // self.config.hop_size
        start = int(random.integers(0, max(0, self._length(index) - frames) + 1))
        return mel[:, start : start + frames], self._wave(index, start, frames)

    def _mel(self, index: int, reconstructed: bool) -> Tensor:
        if reconstructed and self.reconstructed is not None:
            return torch.from_numpy(self.reconstructed[index].astype(np.float32))
        return load_mel(mel_path(self.config, self.rows[index]), self.config.n_mel, self.config.frames)[0]

    def _wave(self, index: int, start: int, frames: int) -> Tensor:
        hop = self.config.hop_size
        return torch.from_numpy(self.waves[index, start * hop : (start + frames) * hop].astype(np.float32) / SCALE)

    def _length(self, index: int) -> int:
        """Frames of a clip before it was padded with silence."""
        seconds = self.rows[index].duration or self.config.duration
        return min(self.config.frames, round(seconds * self.config.sample_rate / self.config.hop_size))


def _waves(config: HifiGanPreprocessConfig, rows: list[Row], folder: Path) -> Path:
    key = hashlib.sha256(repr((config.sample_rate, config.hop_size, config.frames, config.windows)).encode())
    for row in rows:
        scene = json.dumps(row.scene, sort_keys=True)
        written = row.audio.stat().st_mtime_ns if row.audio and row.audio.is_file() else 0
        key.update(repr((row.dataset, row.uid, str(row.audio), written, scene)).encode())
    cached = folder / key.hexdigest()[:16]
    if not cached.is_dir():
        with files.atomic_folder(cached) as unfinished:
            shape = (len(rows), config.frames * config.hop_size)
            waves = np.lib.format.open_memmap(unfinished / "waves.npy", "w+", np.int16, shape)
            for index, row in enumerate(tqdm(rows, desc="waves", unit="clip")):
                wave = read_wave(row, config)
                waves[index, : len(wave)] = np.round(wave.clip(-1, 1) * SCALE)
            waves.flush()
    return cached


def read_wave(row: Row, config: HifiGanPreprocessConfig) -> np.ndarray:
    """(n,) the samples under the mel of a row, n at most frames * hop_size, as preprocessing read them.

    Raises:
        UserError: the recording is gone, or the row has neither a recording nor a scene.
    """
    size = config.frames * config.hop_size
    first = size * _window(row, config.windows)
    if row.audio is not None:
        seconds = (config.windows * size + config.n_fft) / config.sample_rate
        wave = audio.load(row.audio, config.sample_rate, seconds=seconds)
    elif row.scene is not None:
        from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

        wave = world.render(world.Scene.from_dict(row.scene))
    else:
        raise UserError(f"{row.dataset}: {row.uid} has no Audio: a vocoder needs the recordings beside their mels")
    return wave[first : first + size]


def _window(row: Row, windows: int) -> int:
    """Which window of its clip a row is: preprocessing calls them Uid_w0, Uid_w1 ..."""
    return int(row.uid.rpartition("_w")[2]) if windows > 1 else 0


@torch.no_grad()
def _reconstructed(config: Config, rows: list[Row], folder: Path) -> Path:
    """The mels of `rows` after a trip through the VAE, (N, M, frames) float16 in mels.npy."""
    vae = autoencoder.load(config.model.reconstruct, "model.reconstruct")
    key = hashlib.sha256(repr(config.preprocess.frames).encode())
    for tensor in vae.state_dict().values():
        key.update(tensor.numpy().tobytes())
    places = [mel_path(config.preprocess, row) for row in rows]
    for path in places:
        key.update(repr((str(path), path.stat().st_mtime_ns if path.is_file() else 0)).encode())
    cached = folder / key.hexdigest()[:16]
    if not cached.is_dir():
        size, frames = config.preprocess.n_mel, config.preprocess.frames
        with files.atomic_folder(cached) as unfinished:
            mels = np.lib.format.open_memmap(unfinished / "mels.npy", "w+", np.float16, (len(rows), size, frames))
            for start in tqdm(range(0, len(rows), CLIP_BATCH), desc="mels through the VAE", unit="batch"):
                x = torch.stack([load_mel(path, size, frames) for path in places[start : start + CLIP_BATCH]])
                recon = vae.decode(vae.encode(x).latent_dist.mode()).sample[:, 0]
                mels[start : start + len(x)] = recon.clamp(min=SILENCE).numpy()
            mels.flush()
    return cached
