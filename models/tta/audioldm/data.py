"""Data of the latent diffusion model: VAE moments and text states, computed once and kept on disk.

Cached under {processed_dir}/{dataset}/cache/, keyed by a hash of the VAE, the text encoder and the clips, as flat
arrays that are memory-mapped, so that many workers and large data sets share them. Of several processes that start
together one fills it and the others wait.

With `model.text_mask` false the U-Net attends to padding as in the seed: to T5's outputs there, which depend on the
text. They are cached too, up to the longest caption of the split; a batch takes them up to its own longest caption.
"""

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config
from sonolume.models.frozen_features import fingerprint, once
from sonolume.models.training import TrainingData
from sonolume.models.tta.audioldm.components import TextEncoder, check_fit
from sonolume.models.tta.autoencoderkl import model as autoencoder
from sonolume.models.tta.features import load_mel, mel_path, read_rows
from sonolume.preprocessors import text_audio
from sonolume.utils import paths
from sonolume.utils.manifest import Row

SPLITS = ("train", "valid")
FORM = 2  # of the cache's files
CLIP_BATCH = 16  # clips of one forward pass while caching
TEXT_BATCH = 64  # captions of one


@dataclass
class Batch:
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    states: Tensor  # (B, L, D) text states; where padded zeros, or T5's outputs with `text_mask` off
    mask: Tensor  # (B, L) 1 for text

    def to(self, device: torch.device) -> "Batch":
        """On another device; Lightning calls this."""
        return Batch(self.moments.to(device), self.states.to(device), self.mask.to(device))


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Recordings or scenes -> manifest and mel features; then moments and text states if the VAE is there."""
    text_audio.prepare(config.preprocess, args.dataset, args.input, audio_dir=args.audio_dir)
    if (paths.resolve(config.model.autoencoder_path) / "config.json").is_file():
        training_data(config)
    else:
        print(f"{config.model.autoencoder_path}: not trained yet: its latents are cached when training starts")


def training_data(config: Config) -> TrainingData:
    """Batches of `Batch`; fills the cache first where it is not filled."""
    vae = autoencoder.load(config.model.autoencoder_path)
    text = TextEncoder(config.model.text_encoder, config.model.text_mask)
    check_fit(config.model, vae, text)
    train, valid = (_dataset(config, split, vae, text) for split in SPLITS)
    return TrainingData(train, valid, collate)


def _dataset(config: Config, split: str, vae: AutoencoderKL, text: TextEncoder) -> "LatentDataset":
    rows = read_rows(config.preprocess, config.dataset, split, captions=True)
    folder = _cache(config, split, rows, vae, text)
    return LatentDataset(config, split, rows, folder, text([""], length=_longest(folder))[0])


def _longest(folder: Path) -> int:
    """Tokens of the longest caption."""
    return int(np.load(folder / "counts.npy").max(initial=1))


Item = tuple[Tensor, Tensor, int]  # moments (2z, h, w), text states (L, D), tokens of text: L, or fewer with padding


class LatentDataset(Dataset[Item]):
    """The items of one split; captions alternate, some are emptied in training."""

    def __init__(self, config: Config, split: str, rows: list[Row], folder: Path, empty: Tensor) -> None:
        self.rows = rows
        self.texts = [row.captions[0] for row in rows]  # for previews
        self.moments = np.load(folder / "moments.npy", mmap_mode="r")  # (N, 2z, h, w)
        self.states = np.load(folder / "states.npy", mmap_mode="r")  # (all tokens, D)
        self.ends = np.load(folder / "ends.npy")  # (captions,) where each caption's states end
        self.counts = np.load(folder / "counts.npy")  # (captions,) tokens of each caption, without padding
        self.firsts = np.load(folder / "firsts.npy")  # (N + 1,) first caption of each clip
        self.empty = empty
        self.seed = config.train.random_seed
        self.drop = config.preprocess.cond_mask_prob if split == "train" else 0.0

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        random = np.random.default_rng([self.seed, epoch, index])
        moments = torch.from_numpy(self.moments[index].astype(np.float32))
        if random.uniform() < self.drop:
            return moments, self.empty, 1
        number = int(random.integers(self.firsts[index], self.firsts[index + 1]))
        return moments, self.caption(number), int(self.counts[number])

    def caption(self, number: int) -> Tensor:
        """Text states (L, D) of one caption."""
        start = self.ends[number - 1] if number else 0
        return torch.from_numpy(self.states[start : self.ends[number]].astype(np.float32))


def collate(items: list[Item]) -> Batch:
    """Padded to the longest caption of the batch."""
    moments, states, counts = zip(*items, strict=True)
    longest = max(counts)
    mask = torch.arange(longest)[None] < torch.tensor(counts)[:, None]
    padded = torch.nn.utils.rnn.pad_sequence([state[:longest] for state in states], batch_first=True)
    return Batch(torch.stack(moments), padded, mask.long())


def _cache(config: Config, split: str, rows: list[Row], vae: AutoencoderKL, text: TextEncoder) -> Path:
    key = hashlib.sha256()
    key.update(fingerprint(vae.state_dict().values()) + fingerprint(text.parameters()))
    key.update(repr((FORM, config.preprocess.frames, config.model.text_mask, config.train.precision)).encode())
    for row in rows:
        path = mel_path(config.preprocess, row)
        written = path.stat().st_mtime_ns if path.is_file() else 0  # prepared anew: cached anew
        key.update(repr((row.dataset, row.uid, row.captions, written)).encode())
    folder = paths.resolve(config.preprocess.processed_dir) / config.dataset[0] / "cache" / key.hexdigest()[:16]

    def make(unfinished: Path) -> None:
        np.save(unfinished / "moments.npy", _moments(config, split, rows, vae))
        _save_states(split, rows, text, unfinished)

    return once(folder, "caching latents and texts", make)


@torch.no_grad()
def _moments(config: Config, split: str, rows: list[Row], vae: AutoencoderKL) -> np.ndarray:
    """(N, 2z, h, w) float16."""
    size, frames = config.preprocess.n_mel, config.preprocess.frames
    parts = []
    for start in tqdm(range(0, len(rows), CLIP_BATCH), desc=f"latents of {split}", unit="batch"):
        batch = [load_mel(mel_path(config.preprocess, row), size, frames) for row in rows[start : start + CLIP_BATCH]]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision.startswith("bf16")):
            posterior = vae.encode(torch.stack(batch)).latent_dist
        parts.append(torch.cat([posterior.mean, posterior.logvar], dim=1).half().numpy())
    return np.concatenate(parts)


def _save_states(split: str, rows: list[Row], text: TextEncoder, folder: Path) -> None:
    captions = [caption for row in rows for caption in row.captions]
    counts = np.array(text.count(captions) if captions else [], dtype=np.int64)
    lengths = counts if text.masked else np.full_like(counts, counts.max(initial=1))
    ends = np.cumsum(lengths)
    np.save(folder / "firsts.npy", np.cumsum([0] + [len(row.captions) for row in rows]))
    np.save(folder / "counts.npy", counts)
    np.save(folder / "ends.npy", ends)
    shape = (int(lengths.sum()), text.model.config.d_model)
    states = np.lib.format.open_memmap(folder / "states.npy", "w+", np.float16, shape)
    order = np.argsort(counts, kind="stable")  # neighbours of like length waste no padding
    for start in tqdm(range(0, len(order), TEXT_BATCH), desc=f"texts of {split}", unit="batch"):
        numbers = order[start : start + TEXT_BATCH]
        found = text([captions[number] for number in numbers], length=int(lengths[numbers].max()))
        for number, state in zip(numbers, found, strict=True):
            states[ends[number] - lengths[number] : ends[number]] = state.half().cpu().numpy()
    states.flush()
