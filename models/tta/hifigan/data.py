"""Training data of the vocoder: waves and the mel features that were computed from them.

Waves are cached in {processed_dir}/{dataset}/cache/ as one flat array of 16-bit samples that is memory-mapped, so that
many workers share it.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from tqdm import tqdm

from sonolume.config.tta.hifigan import Config, HifiGanPreprocessConfig
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.autoencoderkl.data import preprocess as preprocess
from sonolume.models.tta.features import SILENCE, cache_folder, feature_keys, load_mel, mel_path, read_rows
from sonolume.utils import audio
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

SCALE = 32767.0  # full scale of 16-bit samples
CLIP_BATCH_SIZE = 16  # clips in one forward pass of the VAE


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Datasets in batches of mel (B, M, T) and wave (B, T * hop_size): training segments, whole validation clips."""
    train, valid = (WaveDataset(config, split) for split in ("train", "valid"))
    return TrainingData(train, valid, default_collate)


class WaveDataset(Dataset[tuple[Tensor, Tensor]]):
    """(mel (M, T), wave (T * hop,)) of one split; in training a segment drawn from (seed, epoch, index)."""

    def __init__(self, config: Config, split: str) -> None:
        self.config, self.split = config.preprocess, split
        self.rows = read_rows(self.config, config.dataset, split)
        if split == "train" and 0 < self.config.train_clips < len(self.rows):
            chosen = np.linspace(0, len(self.rows) - 1, self.config.train_clips).astype(int)
            self.rows = [self.rows[index] for index in chosen]
        folder = cache_folder(self.config, config.dataset)
        self.waves = np.load(_waves(self.config, self.rows, folder) / "waves.npy", mmap_mode="r")  # (N, samples)
        self.seed, self.share = config.train.random_seed, config.model.reconstruct_prob
        self.reconstructed = None
        if split == "train" and config.model.reconstruct:
            mels = _reconstructed(config, self.rows, folder) / "mels.npy"
            self.reconstructed = np.load(mels, mmap_mode="r")  # (N, M, frames)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = item
        start, frames, hop, reconstructed = 0, self.config.frames, self.config.hop_size, False
        if self.split == "train":
            random = np.random.default_rng([self.seed, epoch, index])
            reconstructed, frames = random.uniform() < self.share, self.config.segment_size // hop
            start = int(random.integers(0, max(0, self._length(index) - frames) + 1))
        if reconstructed and self.reconstructed is not None:
            mel = torch.from_numpy(self.reconstructed[index].astype(np.float32))
        else:
            mel = load_mel(mel_path(self.config, self.rows[index]), self.config.n_mel, self.config.frames)[0]
        wave = self.waves[index, start * hop : (start + frames) * hop].astype(np.float32) / SCALE
        return mel[:, start : start + frames], torch.from_numpy(wave)

    def _length(self, index: int) -> int:
        """Frames of a clip without its padding."""
        seconds = self.rows[index].duration or self.config.duration
        return min(self.config.frames, round(seconds * self.config.sample_rate / self.config.hop_size))


def _waves(config: HifiGanPreprocessConfig, rows: list[Row], folder: Path) -> Path:
    """Folder of waves.npy: the waves (N, frames * hop_size), int16."""

    def make(unfinished: Path) -> None:
        shape = (len(rows), config.frames * config.hop_size)
        waves = np.lib.format.open_memmap(unfinished / "waves.npy", "w+", np.int16, shape)
        for index, row in enumerate(tqdm(rows, desc="waves", unit="clip")):
            wave = read_wave(row, config)
            waves[index, : len(wave)] = np.round(wave.clip(-1, 1) * SCALE)
        waves.flush()

    times = [row.audio.stat().st_mtime_ns if row.audio and row.audio.is_file() else 0 for row in rows]
    sources = [[row.dataset, row.uid, str(row.audio), time, row.scene] for row, time in zip(rows, times, strict=True)]
    return cached(folder, [config.sample_rate, config.hop_size, config.frames, config.windows, sources], make, "waves")


def read_wave(row: Row, config: HifiGanPreprocessConfig) -> np.ndarray:
    """Read the samples (n,) of a row's mel, n at most frames * hop_size, as preprocessing did.

    Raises a UserError if the recording is missing, or the row has neither a recording nor a scene.
    """
    size = config.frames * config.hop_size
    window = int(row.uid.rpartition("_w")[2]) if config.windows > 1 else 0  # preprocessing appends _w0, _w1 ...
    if row.audio is not None:
        seconds = (config.windows * size + config.n_fft) / config.sample_rate
        wave = audio.load(row.audio, config.sample_rate, seconds=seconds)
    elif row.scene is not None:
        from sonolume.preprocessors.miniworld import world  # recordings do not need the synthesiser

        wave = world.render(world.Scene.from_dict(row.scene))
    else:
        raise UserError(f"{row.dataset}: {row.uid} has no Audio: a vocoder needs the recordings as well as their mels")
    return wave[window * size : (window + 1) * size]


@torch.no_grad()
def _reconstructed(config: Config, rows: list[Row], folder: Path) -> Path:
    """Folder of mels.npy: the mels of `rows` after encoding and decoding by the VAE, (N, M, frames) float16."""
    from sonolume.models.tta.autoencoderkl import model as autoencoder  # only model.reconstruct needs it

    vae = autoencoder.load(config.model.reconstruct, "model.reconstruct")
    size, frames = config.preprocess.n_mel, config.preprocess.frames

    def make(unfinished: Path) -> None:
        mels = np.lib.format.open_memmap(unfinished / "mels.npy", "w+", np.float16, (len(rows), size, frames))
        for start in tqdm(range(0, len(rows), CLIP_BATCH_SIZE), desc="mels through the VAE", unit="batch"):
            paths = [mel_path(config.preprocess, row) for row in rows[start : start + CLIP_BATCH_SIZE]]
            x = torch.stack([load_mel(path, size, frames) for path in paths])  # (B, 1, M, T)
            recon = vae.decode(vae.encode(x).latent_dist.mode()).sample[:, 0]
            mels[start : start + len(x)] = recon.clamp(min=SILENCE).numpy()
        mels.flush()

    key = [frames, content_hash(vae.state_dict().values()), feature_keys(config.preprocess, rows)]
    return cached(folder, key, make, "reconstructed mels")
