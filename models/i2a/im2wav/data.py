"""Data of Im2Wav: windows of sound for the VQ-VAE; for the priors also their tokens, image vectors and times.

Tokens and image vectors are cached under {processed_dir}/{dataset}/cache/. With `preprocess.aug_shift` or `aug_blend`
each epoch has other waves: items then hold waves instead of tokens. B items, W samples of a window, T and T' coarse and
fine tokens of a window, F frames, V width of the image vectors.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sonolume.config.i2a.im2wav import Config, PreprocessOptions, Stage
from sonolume.models.a2i.frozen import cached_features
from sonolume.models.i2a.im2wav.image_vectors import ImageVectors, has_images
from sonolume.models.i2a.im2wav.windows import Draws, Place, SoundWindows, draw
from sonolume.models.training import Frozen, TrainingData
from sonolume.modules.im2wav.windows import least_samples
from sonolume.modules.mel import MelSpectrogram
from sonolume.preprocessors import prepared, sound_pictures
from sonolume.preprocessors.sound_pictures import Films
from sonolume.utils import audio, paths
from sonolume.utils.manifest import Row
from sonolume.utils.shards import Column

CLIP_SECONDS = 10.0  # longest sound of an evaluation of the VQ-VAE
MARGIN = 0.01  # seconds by which a sound is shorter than the range of the Low prior's time tables


class WaveItem(NamedTuple):
    """A batch for the VQ-VAE, or without B one item."""

    wave: Tensor  # (B, W)


class Batch(NamedTuple):
    """A batch for the priors, or without B one item; either waves or tokens."""

    waves: Tensor | None  # (B, W)
    low_tokens: Tensor | None  # (B, T) int64
    up_tokens: Tensor | None  # (B, T') int64; None in stage low
    frames: Tensor  # (B, F, V) vectors of the frames; of a picture, one vector F times
    times: Tensor  # (B, 3) int64, samples: length of the sound, offset and length of the window


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Prepare videos, sounds with pictures, or generated films: write wavs, pictures and manifests."""
    assert options.dataset is not None
    data, vectors = config.preprocess, config.preprocess.clip_features
    films = Films(
        stereo=data.aug_blend,
        sounds_only=config.stage is Stage.vqvae,
        video_dir=options.video_dir,
        vectors_dir=paths.resolve(vectors) if vectors else None,
    )
    sound_pictures.prepare(data, options.dataset, options.input, options.audio_dir, films)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Both splits of the config's stage; computes the cached tokens and image vectors first if they are missing."""
    if config.stage is Stage.vqvae:
        return TrainingData(WaveDataset(config, "train"), WaveDataset(config, "valid"), default_collate)
    return TrainingData(PriorDataset(config, "train", frozen), PriorDataset(config, "valid", frozen), collate)


def validation_clips(config: Config, mel: MelSpectrogram) -> tuple[list[str], Callable[[int], tuple[Tensor, Tensor]]]:
    """Uids of the validation sounds, and a function from their number to mel (M, T) and wave (n,) of 10 s at most."""
    rows, rate = WaveDataset(config, "valid").rows, config.preprocess.sample_rate

    def get(number: int) -> tuple[Tensor, Tensor]:
        wave = torch.from_numpy(audio.load(rows[number].audio or "", rate, seconds=CLIP_SECONDS))
        return mel(wave[None])[0], wave

    return [row.uid for row in rows], get


def collate(items: Sequence[Batch]) -> Batch:
    """Stack items; what one of them lacks, all lack."""
    return Batch(*(None if column[0] is None else torch.stack(column) for column in zip(*items, strict=True)))  # type: ignore[arg-type]


class WaveDataset(Dataset[WaveItem]):
    """Windows of sounds of a split, in training shifted and blended as the config says.

    Args:
        rows: the sounds, by default all of the split.
    """

    def __init__(self, config: Config, split: str, rows: Sequence[Row] | None = None) -> None:
        self.config, self.data = config, config.preprocess
        self.rows = rows = _read_rows(config, split) if rows is None else rows
        self.augmented = split == "train" and (self.data.aug_shift or self.data.aug_blend)
        longest = round((config.model.low.max_seconds - MARGIN) * self.data.sample_rate)
        self.windows = SoundWindows(rows, self.data, longest)

    def __len__(self) -> int:
        return len(self.windows)

    def draw(self, epoch: int, number: int) -> Draws:
        """The random numbers of an item; those of shift and blend as far as the config asks for them."""
        drawn = draw(self.config.train.random_seed, epoch, number, self.windows.size)
        shift = drawn.shift if self.augmented and self.data.aug_shift else 0
        weight = drawn.weight if self.augmented and self.data.aug_blend else 0.5
        return drawn._replace(shift=shift, weight=weight)

    def __getitem__(self, item: tuple[int, int]) -> WaveItem:
        drawn = self.draw(*item)
        return WaveItem(self.windows.read(self.windows.place(item[1], drawn.shift), drawn.weight))


class PriorDataset(WaveDataset, Dataset[Batch]):  # type: ignore[misc]
    """Windows with their tokens, or waves where each epoch has others, image vectors and times."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        data, vqvae = config.preprocess, frozen["vqvae"]
        folder = prepared.cache_folder(data, config.dataset)
        rows = _read_rows(config, split, images=True)
        self.vectors = ImageVectors(rows, data, config.train, frozen["clip"], folder, split)
        super().__init__(config, split, self.vectors.rows)
        levels = {} if self.augmented else {"low": 1} if config.stage is Stage.low else {"low": 1, "up": 0}
        self.tokens: dict[str, Column] = {}
        for name, level in levels.items():
            encode = partial(vqvae.encode, level=level)  # (b, W) -> (b, T)
            self.tokens[name] = cached_features(
                folder, f"{name} tokens of {split}", self.windows, vqvae, encode, config.train, np.int16, exact=True
            )

    def __getitem__(self, item: tuple[int, int]) -> Batch:  # type: ignore[override]
        _, number = item
        drawn = self.draw(*item)
        place = self.windows.place(number, drawn.shift)
        waves = self.windows.read(place, drawn.weight) if not self.tokens else None
        tokens = {name: torch.from_numpy(rows[number].astype(np.int64)) for name, rows in self.tokens.items()}
        frames = self.vectors.window(place, drawn)                                               # (F, V)
        return Batch(waves, tokens.get("low"), tokens.get("up"), frames, self.times(place))

    def times(self, place: Place) -> Tensor:
        """Length of the sound, at least that of a window and the Low prior's shortest; offset and length of the window.

        (3,) in samples.
        """
        size, least = self.windows.size, least_samples(self.config.model.low.min_seconds, self.data.sample_rate)
        return torch.tensor([max(int(self.windows.lengths[place.sound]), size, least), place.offset, size])


def _read_rows(config: Config, split: str, images: bool = False) -> list[Row]:
    """Read the rows of a split that have a sound, and image vectors or their source if `images` asks for them."""
    data = config.preprocess
    for dataset in config.dataset:
        path = prepared.dataset_folder(data, dataset) / sound_pictures.SETTINGS_FILE
        if data.aug_blend and path.is_file():
            prepared.check_settings(path, {"stereo": True}, "prepare the data with preprocess.aug_blend=true")

    def is_complete(row: Row) -> bool:
        return bool(row.audio and row.audio.is_file()) and (not images or has_images(row, data))

    missing = "a sound with a video or a picture" if images else "a sound"
    return sound_pictures.read_split(data, config.dataset, split, is_complete, missing)
