"""Data of AudioToken: BEATs' features of windows of sound, VAE moments of pictures, and vectors of labels.

Features and moments are cached under {processed_dir}/{dataset}/cache/, keyed by a hash of the network and the files, as
flat arrays that are memory-mapped. With `preprocess.cache_features` false, items hold the sound itself.
N clips, W windows, M pictures in all; B items, T tokens of BEATs, C channels of its features, n samples, D text width.
"""

import argparse
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sonolume.config.a2i.audiotoken import AudioTokenPreprocessConfig, Config
from sonolume.models.a2i import stable_diffusion
from sonolume.models.a2i.audiotoken.encoder import SAMPLE_RATE, beats_features, load_beats, repeat
from sonolume.models.frozen_features import fingerprint, once
from sonolume.models.training import TrainingData
from sonolume.modules.audiotoken.losses import label_vector
from sonolume.preprocessors import sound_pictures
from sonolume.preprocessors.pair_files import pictures_of
from sonolume.utils import audio, hub, manifest, paths
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row

SPLITS = ("train", "valid")
FORM = 1  # of the cache's files
AT_ONCE = 8  # sounds or pictures of one forward pass while caching


@dataclass
class Batch:
    sound: Tensor  # (B, T, C) features of BEATs, or (B, n) waves
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    label: Tensor  # (B, D) the mean embedding of the label's words; zeros where there is none

    def to(self, device: torch.device) -> "Batch":
        """On another device; Lightning calls this."""
        return Batch(self.sound.to(device), self.moments.to(device), self.label.to(device))


Item = tuple[Tensor, Tensor, Tensor]  # sound, moments, label, as in `Batch` without B


def preprocess(config: Config, args: argparse.Namespace) -> None:
    """Videos, pairs or scenes -> wavs, pictures and a manifest."""
    sound_pictures.prepare(config.preprocess, args.dataset, args.input, args.audio_dir)


def training_data(config: Config) -> TrainingData:
    """Batches of `Batch`; fills the cache first where it is not filled."""
    sd = load_stable_diffusion(config)
    beats = load_beats(config.model.beats)
    train, valid = (PairDataset(config, split, sd, beats) for split in SPLITS)
    return TrainingData(train, valid, collate)


def load_stable_diffusion(config: Config) -> Any:
    """The frozen pipeline, without a safety checker: nothing is published from here."""
    remedy = "a folder or a hub id of Stable Diffusion 1.x or 2.x"
    where = hub.locate(config.model.stable_diffusion, "model.stable_diffusion", remedy)
    sd = stable_diffusion.load(where, "model.stable_diffusion", torch.float32, safety_checker=False)
    for network in (sd.unet, sd.vae, sd.text_encoder):
        network.eval().requires_grad_(False)
    sd.set_progress_bar_config(disable=True)
    return sd


class PairDataset(Dataset[Item]):
    """Of each clip one window of sound and one picture of the same time, drawn anew in each epoch."""

    def __init__(self, config: Config, split: str, sd: Any, beats: Any) -> None:
        self.config, self.seed = config.preprocess, config.train.random_seed
        self.rows = read_rows(config.preprocess, config.dataset, split)
        self.starts, self.first_window = _flat([window_starts(row, self.config) for row in self.rows], np.float64)
        self.pictures = [pictures_of(row) for row in self.rows]
        seconds = [[math.nan if time is None else time for time, _ in some] for some in self.pictures]
        self.times, self.first_picture = _flat(seconds, np.float64)
        self.moments = np.load(_cached_moments(config, split, self, sd.vae) / "moments.npy", mmap_mode="r")
        self.features: np.ndarray | None = None
        if self.config.cache_features:
            self.features = np.load(_cached_features(config, split, self, beats) / "features.npy", mmap_mode="r")
        words = {text_of(row) for row in self.rows}
        vectors = {text: label_vector(text, sd.tokenizer, sd.text_encoder).float() for text in words}
        self.labels = [vectors[text_of(row)] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        random = np.random.default_rng([self.seed, epoch, index])
        window = int(random.integers(self.first_window[index], self.first_window[index + 1]))
        picture = int(random.choice(self._seen(index, self.starts[window])))
        moments = torch.from_numpy(self.moments[picture].astype(np.float32))
        return self.sound(index, window), moments, self.labels[index]

    def _seen(self, index: int, start: float) -> np.ndarray:
        """Numbers of the pictures of a clip that are seen while a window sounds; the nearest if there are none.

        A still one belongs to every second.
        """
        numbers = np.arange(self.first_picture[index], self.first_picture[index + 1])
        away = np.nan_to_num(np.abs(self.times[numbers] - (start + self.config.input_length / 2)))
        inside = numbers[away <= self.config.input_length / 2]
        return inside if len(inside) else numbers[[int(away.argmin())]]

    def sound(self, index: int, window: int) -> Tensor:
        """(T, C), or (n,) without a cache."""
        if self.features is not None:
            return torch.from_numpy(self.features[window].astype(np.float32))
        return load_window(self.rows[index], float(self.starts[window]), self.config.input_length)


def collate(items: list[Item]) -> Batch:
    """All items are of one size."""
    sounds, moments, labels = zip(*items, strict=True)
    return Batch(torch.stack(sounds), torch.stack(moments), torch.stack(labels))


def read_rows(config: AudioTokenPreprocessConfig, datasets: Sequence[str], split: str) -> list[Row]:
    """The rows of a split of all data sets that have a sound and a picture; a line says how many have not.

    Raises:
        UserError: nothing is prepared there, or nothing to train on.
    """
    name = {"train": config.train_file, "valid": config.valid_file}[split]
    rows: list[Row] = []
    for dataset in datasets:
        path = paths.resolve(config.processed_dir) / dataset / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file: prepare the data first (run_preprocess.sh of this recipe, with the same "
                "--config; --input FOLDER for videos of your own). tiny.json beside exp_config.json needs no data"
            )
        found = manifest.read_manifest(path, dataset)
        kept = [row for row in found if row.audio and row.audio.is_file() and row.image and row.image.is_dir()]
        if len(kept) < len(found) and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{path}: left out {len(found) - len(kept):,} of {len(found):,} rows without a sound or a picture")
        rows += kept
    if not rows and split == "train":
        raise UserError(f"{list(datasets)}: no usable rows in {name}: see report.json")
    return rows


def text_of(row: Row) -> str | None:
    """The words that a token is pulled to: the label, else the first caption, else none."""
    return row.label or next(iter(row.captions), None)


def window_starts(row: Row, config: AudioTokenPreprocessConfig) -> list[float]:
    """Seconds at which the windows of a clip begin, evenly spaced; the last one ends with the clip."""
    room = min(row.duration or 0.0, config.seconds) - config.input_length
    return np.linspace(0, room, config.starts).tolist() if room > 0 and config.starts > 1 else [0.0]


def load_window(row: Row, start: float, length: float) -> Tensor:
    """(n,) at 16 kHz, repeated if the clip ends before."""
    assert row.audio is not None
    wave = audio.load(row.audio, SAMPLE_RATE, seconds=start + length)
    first = round(start * SAMPLE_RATE)
    return repeat(torch.from_numpy(wave[first:]), round(length * SAMPLE_RATE))


def load_picture(path: Path, config: AudioTokenPreprocessConfig) -> Tensor:
    """(3, height, width) in [-1, 1].

    Raises:
        UserError: not readable as a picture.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not readable as a picture: remove it and run run_preprocess.sh again") from error
    if config.center_crop:
        image = ImageOps.fit(image, (min(image.size), min(image.size)))
    image = image.resize((config.width, config.height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1)


def _flat(groups: list[list[float]], kind: Any) -> tuple[np.ndarray, np.ndarray]:
    """All values one after the other, and where each group begins (one more than there are groups)."""
    firsts = np.cumsum([0] + [len(group) for group in groups])
    return np.array([value for group in groups for value in group], kind), firsts


class _Sounds(Dataset[Tensor]):
    def __init__(self, data: PairDataset) -> None:
        self.data = data
        self.clips = np.repeat(np.arange(len(data.rows)), np.diff(data.first_window))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, window: int) -> Tensor:
        start = float(self.data.starts[window])
        return load_window(self.data.rows[self.clips[window]], start, self.data.config.input_length)


class _Pictures(Dataset[Tensor]):
    def __init__(self, data: PairDataset) -> None:
        self.config, self.paths = data.config, [path for some in data.pictures for _, path in some]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Tensor:
        return load_picture(self.paths[number], self.config)


def _cached_features(config: Config, split: str, data: PairDataset, beats: Any) -> Path:
    written = [(row.dataset, row.uid, row.audio.stat().st_mtime_ns) for row in data.rows if row.audio]
    key = (FORM, data.config.input_length, written, data.starts.tolist(), fingerprint(beats.parameters()))

    def hear(waves: Tensor) -> Tensor:
        return beats_features(beats, waves)                                               # (b, T, C)

    return _cached(config, split, "features", key, _Sounds(data), beats, hear)


def _cached_moments(config: Config, split: str, data: PairDataset, vae: Any) -> Path:
    written = [(str(path), path.stat().st_mtime_ns) for some in data.pictures for _, path in some]
    size = data.config.width, data.config.height, data.config.center_crop
    key = (FORM, size, written, fingerprint(vae.state_dict().values()))

    def see(pictures: Tensor) -> Tensor:
        posterior = vae.encode(pictures).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)                       # (b, 2z, h, w)

    return _cached(config, split, "moments", key, _Pictures(data), vae, see)


def _cached(config: Config, split: str, name: str, key: Any, inputs: Any, network: Any, look: Any) -> Path:
    """A folder that holds {name}.npy, (len(inputs), ...) float16."""
    digest = hashlib.sha256(repr((config.train.precision, key)).encode()).hexdigest()[:16]
    folder = paths.resolve(config.preprocess.processed_dir) / config.dataset[0] / "cache" / f"{name}-{digest}"

    def make(unfinished: Path) -> None:
        _compute(unfinished / f"{name}.npy", split, inputs, network, look, config)

    return once(folder, f"caching {name}", make)


@torch.no_grad()
def _compute(path: Path, split: str, inputs: Any, network: Any, look: Any, config: Config) -> None:
    use_cuda = config.train.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if use_cuda else "cpu")
    network.to(device)
    rows, done = None, 0
    loader = DataLoader(inputs, AT_ONCE, num_workers=config.train.num_workers)
    for batch in tqdm(loader, desc=f"{path.stem} of {split}", unit="batch", disable=not len(inputs)):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision.startswith("bf16")):
            found = look(batch.to(device)).half().cpu().numpy()
        if rows is None:
            rows = np.lib.format.open_memmap(path, "w+", np.float16, (len(inputs), *found.shape[1:]))
        rows[done : done + len(found)] = found
        done += len(found)
    network.to("cpu")
    if rows is None:
        np.save(path, np.zeros((0,), np.float16))  # nothing to validate on
    else:
        rows.flush()
