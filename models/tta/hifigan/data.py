"""Training data of the vocoder: waves and the mel features that were computed from them.

Waves are cached in {processed_dir}/{dataset}/cache/ as one memory-mapped array of 16-bit samples that workers share.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.tta.hifigan import Config, HifiGanPreprocessConfig
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta import features
from sonolume.models.tta.autoencoderkl.data import preprocess as preprocess
from sonolume.modules.mel import MelSettings
from sonolume.preprocessors.prepared import cache_folder, load_wave
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.manifest import Row

SCALE = 32767.0  # full scale of 16-bit samples


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Datasets in batches of mel (B, M, T) and wave (B, T * hop_size): training segments, whole validation clips."""
    return TrainingData.of(lambda split: WaveDataset(config, split))


class WaveDataset(Dataset[tuple[Tensor, Tensor]]):
    """(mel (M, T), wave (T * hop,)) of one split; in training a segment drawn from (seed, epoch, index)."""

    def __init__(self, config: Config, split: str) -> None:
        self.config, self.split = config.preprocess, split
        self.rows = features.read_rows(self.config, config.dataset, split)
        if split == "train" and 0 < self.config.train_clips < len(self.rows):
            chosen = np.linspace(0, len(self.rows) - 1, self.config.train_clips).astype(int)
            self.rows = [self.rows[index] for index in chosen]
        folder = cache_folder(self.config, config.dataset)
        self.waves = np.load(_waves(self.config, self.rows, folder) / "waves.npy", mmap_mode="r")  # (N, samples)
        self.seed, self.share, self.reconstructed = config.train.random_seed, config.model.reconstruct_prob, None
        if split == "train" and config.model.reconstruct:
            mels = _reconstructed(config, self.rows, folder) / "mels.npy"
            self.reconstructed = np.load(mels, mmap_mode="r")  # (N, M, frames)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = item
        config, row, start, frames = self.config, self.rows[index], 0, self.config.frames
        is_reconstructed = False
        if self.split == "train":
            random = np.random.default_rng([self.seed, epoch, index])
            is_reconstructed = bool(random.uniform() < self.share)
            frames = config.segment_size // config.hop_size
            seconds = row.duration or config.duration
            length = min(config.frames, round(seconds * config.sample_rate / config.hop_size))  # without its padding
            start = int(random.integers(0, max(0, length - frames) + 1))
        if is_reconstructed and self.reconstructed is not None:
            mel = torch.from_numpy(self.reconstructed[index].astype(np.float32))
        else:
            mel = features.load_mel(features.mel_path(config, row), config.n_mel, config.frames)[0]
        wave = self.waves[index, start * config.hop_size : (start + frames) * config.hop_size]
        return mel[:, start : start + frames], torch.from_numpy(wave.astype(np.float32) / SCALE)


def _waves(config: HifiGanPreprocessConfig, rows: list[Row], folder: Path) -> Path:
    """Folder of waves.npy: the samples of each row's mel as preprocessing loaded them, (N, frames * hop_size) int16."""
    size = config.frames * config.hop_size
    seconds = (config.windows * size + config.n_fft) / config.sample_rate

    def make(unfinished: Path) -> None:
        waves = np.lib.format.open_memmap(unfinished / "waves.npy", "w+", np.int16, (len(rows), size))
        for index, row in enumerate(tqdm(rows, desc="waves", unit="clip")):
            window = int(row.uid.rpartition("_w")[2]) if config.windows > 1 else 0  # of Uids with _w0, _w1 ...
            wave = load_wave(row, config.sample_rate, seconds)[window * size : (window + 1) * size]
            waves[index, : len(wave)] = np.round(wave.clip(-1, 1) * SCALE)
        waves.flush()

    sources = [[row.dataset, row.uid, str(row.audio), features.modified(row.audio), row.scene] for row in rows]
    return cached(folder, [config.sample_rate, config.hop_size, config.frames, config.windows, sources], make, "waves")


@torch.no_grad()
def _reconstructed(config: Config, rows: list[Row], folder: Path) -> Path:
    """Folder of mels.npy: the mels of `rows` after encoding and decoding by the VAE, (N, M, frames) float16."""
    from sonolume.models.tta.autoencoderkl import model as autoencoder  # only model.reconstruct needs it

    vae = autoencoder.load(config.model.reconstruct, "model.reconstruct", settings=MelSettings.of(config.preprocess))
    size, frames = config.preprocess.n_mel, config.preprocess.frames

    def make(unfinished: Path) -> None:
        mels = np.lib.format.open_memmap(unfinished / "mels.npy", "w+", np.float16, (len(rows), size, frames))
        start = 0
        for x in features.mel_batches(config.preprocess, rows, "mels through the VAE"):
            recon = vae.decode(vae.encode(x).latent_dist.mode()).sample[:, 0]
            mels[start : start + len(x)] = recon.clamp(min=features.SILENCE).numpy()
            start += len(x)
        mels.flush()

    key = [frames, content_hash(vae.state_dict().values()), features.feature_keys(config.preprocess, rows)]
    return cached(folder, key, make, "reconstructed mels")
