"""Training data of the vocoder: waves and the mel features that were computed from them.

Waves are cached in {processed_dir}/{dataset}/cache/ in shards of 16-bit samples, which workers share.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.tta.hifigan import Config
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta import features
from sonolume.models.tta.autoencoderkl.data import preprocess as preprocess
from sonolume.modules.mel import MelSettings
from sonolume.preprocessors import stages
from sonolume.preprocessors.prepared import cache_folder, load_wave
from sonolume.preprocessors.stages import Progress, Stage, compute, device_of, in_threads, on_device, sizes_of
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.shards import ShardWriter

SCALE = 32767.0  # full scale of 16-bit samples
CACHE_VERSION = 2  # raise it to compute all waves and reconstructions again


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Datasets in batches of mel (B, M, T) and wave (B, T * hop_size): training segments, whole validation clips."""
    return TrainingData.of(lambda split: WaveDataset(config, split))


class WaveDataset(Dataset[tuple[Tensor, Tensor]]):
    """(mel (M, T), wave (T * hop,)) of one split; in training a segment drawn from (seed, epoch, index)."""

    def __init__(self, config: Config, split: str) -> None:
        self.config, self.split = config.preprocess, split
        if stages.is_partial():
            raise UserError("--part: the vocoder's waves are not computed in parts: leave out --features")
        self.mels = features.open_mels(self.config, config.dataset, split)
        self.rows, self.numbers = self.mels.rows, np.arange(len(self.mels.rows))  # numbers in `mels`
        if split == "train" and 0 < self.config.train_clips < len(self.rows):
            self.numbers = np.linspace(0, len(self.rows) - 1, self.config.train_clips).astype(int)
            self.rows = [self.mels.rows[number] for number in self.numbers]
        folder = cache_folder(self.config, config.dataset)
        self.waves = compute(self._wave_stage(), folder).column("wave")  # (N, samples)
        self.seed, self.share, self.reconstructed = config.train.random_seed, config.model.reconstruct_prob, None
        if split == "train" and config.model.reconstruct:
            self.reconstructed = compute(self._reconstruction_stage(config), folder).column("mel")  # (N, M, frames)

    def _wave_stage(self) -> Stage:
        """Stage of the samples of each row's mel as preprocessing loaded them, (frames * hop_size,) int16."""
        config = self.config
        size = config.frames * config.hop_size
        seconds = (config.windows * size + config.n_fft) / config.sample_rate

        def load(row: Row) -> np.ndarray:
            window = int(row.uid.rpartition("_w")[2]) if config.windows > 1 else 0  # of Uids with _w0, _w1 ...
            wave = load_wave(row, config.sample_rate, seconds)[window * size : (window + 1) * size]
            samples = np.zeros((1, size), np.int16)
            samples[0, : len(wave)] = np.round(wave.clip(-1, 1) * SCALE)
            return samples

        def write(writer: ShardWriter, some: range, progress: Progress) -> None:
            for samples in in_threads(load, (self.rows[number] for number in some)):
                writer.append("wave", samples)
                progress(1)

        sources: Any = [self.mels.key, self.numbers]
        if isinstance(self.mels, features.MelFiles):  # whose key knows the mels only
            sources = [[row.dataset, row.uid, str(row.audio), features.modified(row.audio), row.scene]
                       for row in self.rows]  # fmt: skip
        key = [CACHE_VERSION, config.sample_rate, config.hop_size, config.frames, config.windows, sources]
        return Stage(f"waves of {self.split}", key, lambda: sizes_of(len(self.rows)), write)

    def _reconstruction_stage(self, config: Config) -> Stage:
        """Stage of the mels after encoding and decoding by the VAE, (M, frames) float16."""
        from sonolume.models.tta.autoencoderkl import model as autoencoder  # only model.reconstruct needs it

        mel = MelSettings.of(config.preprocess)
        vae = autoencoder.load(config.model.reconstruct, "model.reconstruct", settings=mel)
        device = device_of(config.train)

        @torch.no_grad()
        def reconstruct(batch: list[Tensor]) -> np.ndarray:
            recon = vae.decode(vae.encode(torch.stack(batch).to(device)).latent_dist.mode()).sample[:, 0]
            return recon.clamp(min=features.SILENCE).half().cpu().numpy()                          # (b, M, frames)

        def write(writer: ShardWriter, some: range, progress: Progress) -> None:
            numbers = self.numbers[some.start : some.stop]
            size = features.BATCH_SIZE
            batches = (numbers[start : start + size] for start in range(0, len(some), size))
            mels = ([self.mels[number] for number in batch] for batch in batches)
            for found in in_threads(reconstruct, mels, device):
                writer.append("mel", found)
                progress(len(found))

        key = [CACHE_VERSION, self.config.frames, content_hash(vae.state_dict().values()), self.mels.key, self.numbers]
        networks = partial(on_device, device, vae)
        return Stage(f"reconstructed mels of {self.split}", key, lambda: sizes_of(len(self.rows)), write, networks)

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
            mel = self.mels[self.numbers[index]][0]
        wave = self.waves[index, start * config.hop_size : (start + frames) * config.hop_size]
        return mel[:, start : start + frames], torch.from_numpy(wave.astype(np.float32) / SCALE)
