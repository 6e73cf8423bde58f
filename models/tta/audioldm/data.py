"""Data of the latent diffusion model: VAE moments and text states, computed once and kept on disk.

Cached under {processed_dir}/{dataset}/cache/, keyed by a hash of the VAE, the text encoder and the clips, as flat
arrays that are memory-mapped, so that many workers and large data sets share them.
"""

import argparse
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config
from sonolume.models.training import TrainingData
from sonolume.models.tta.audioldm.parts import TextEncoder, check_fit
from sonolume.models.tta.autoencoderkl import pipeline as autoencoder
from sonolume.models.tta.features import load_mel, mel_path, read_rows
from sonolume.preprocessors import text_audio
from sonolume.utils import files, paths
from sonolume.utils.manifest import Row

SPLITS = ("train", "valid")
CLIP_BATCH = 16  # clips of one forward pass while caching
TEXT_BATCH = 64  # captions of one


@dataclass
class Batch:
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    states: Tensor  # (B, L, D) text states, zeros where padded
    mask: Tensor  # (B, L) 1 for text

    def to(self, device: torch.device) -> "Batch":
        """On another device; Lightning calls this."""
        return Batch(self.moments.to(device), self.states.to(device), self.mask.to(device))


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Recordings or scenes -> manifest and mel features; then moments and text states if the VAE is there."""
    text_audio.prepare(config.preprocess, args.dataset, args.input)
    if (paths.resolve(config.model.autoencoder_path) / "config.json").is_file():
        training_data(config)
    else:
        print(f"{config.model.autoencoder_path}: not trained yet: its latents are cached when training starts")


def training_data(config: Config) -> TrainingData:
    """Batches of `Batch`; fills the cache first where it is not filled."""
    vae = autoencoder.load(config.model.autoencoder_path)
    text = TextEncoder(config.model.text_encoder, config.model.text_mask)
    check_fit(config.model, vae, text)
    empty = text([""])[0]
    train, valid = (_dataset(config, split, vae, text, empty) for split in SPLITS)
    return TrainingData(train, valid, collate)


def _dataset(config: Config, split: str, vae: AutoencoderKL, text: TextEncoder, empty: Tensor) -> "LatentDataset":
    rows = read_rows(config.preprocess, config.dataset, split, captions=True)
    return LatentDataset(config, split, rows, _cache(config, split, rows, vae, text), empty)


class LatentDataset(Dataset[tuple[Tensor, Tensor]]):
    """(moments (2z, h, w), text states (L, D)) of one split; captions alternate, some are emptied in training."""

    def __init__(self, config: Config, split: str, rows: list[Row], folder: Path, empty: Tensor) -> None:
        self.texts = [row.captions[0] for row in rows]  # for previews
        self.moments = np.load(folder / "moments.npy", mmap_mode="r")  # (N, 2z, h, w)
        self.states = np.load(folder / "states.npy", mmap_mode="r")  # (all tokens, D)
        self.ends = np.load(folder / "ends.npy")  # (captions,) where each caption's tokens end
        self.firsts = np.load(folder / "firsts.npy")  # (N + 1,) first caption of each clip
        self.empty = empty
        self.seed = config.train.random_seed
        self.drop = config.preprocess.cond_mask_prob if split == "train" else 0.0

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = item
        random = np.random.default_rng([self.seed, epoch, index])
        moments = torch.from_numpy(self.moments[index].astype(np.float32))
        if random.uniform() < self.drop:
            return moments, self.empty
        return moments, self.caption(int(random.integers(self.firsts[index], self.firsts[index + 1])))

    def caption(self, number: int) -> Tensor:
        """Text states (L, D) of one caption."""
        start = self.ends[number - 1] if number else 0
        return torch.from_numpy(self.states[start : self.ends[number]].astype(np.float32))


def collate(items: list[tuple[Tensor, Tensor]]) -> Batch:
    states = [state for _, state in items]
    mask = [torch.ones(len(state), dtype=torch.long) for state in states]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(torch.stack([moments for moments, _ in items]), pad(states, True), pad(mask, True))


def _cache(config: Config, split: str, rows: list[Row], vae: AutoencoderKL, text: TextEncoder) -> Path:
    key = hashlib.sha256()
    key.update(_fingerprint(vae.state_dict().values()) + _fingerprint(text.parameters()))
    key.update(repr((config.preprocess.frames, config.model.text_mask, config.train.precision)).encode())
    for row in rows:
        path = mel_path(config.preprocess, row)
        written = path.stat().st_mtime_ns if path.is_file() else 0  # prepared anew: cached anew
        key.update(repr((row.dataset, row.uid, row.captions, written)).encode())
    folder = paths.resolve(config.preprocess.processed_dir) / config.dataset[0] / "cache" / key.hexdigest()[:16]
    if not folder.is_dir():
        with files.atomic_folder(folder) as unfinished:
            np.save(unfinished / "moments.npy", _moments(config, split, rows, vae))
            _save_states(split, rows, text, unfinished)
    return folder


def _fingerprint(tensors: Iterable[Tensor]) -> bytes:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.digest()


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
    firsts = np.cumsum([0] + [len(row.captions) for row in rows])
    unique = sorted(set(captions), key=len)  # neighbours of like length waste no padding
    states: dict[str, np.ndarray] = {}
    for start in tqdm(range(0, len(unique), TEXT_BATCH), desc=f"texts of {split}", unit="batch"):
        chunk = unique[start : start + TEXT_BATCH]
        for caption, state in zip(chunk, text(chunk), strict=True):
            states[caption] = state.half().numpy()
    np.save(folder / "firsts.npy", firsts)
    np.save(folder / "ends.npy", np.cumsum([len(states[caption]) for caption in captions]))
    np.save(folder / "states.npy", np.concatenate([states[caption] for caption in captions]))
