"""Data of Wavy: windows of recordings with their pictures and captions.

Stage 1 pairs the hidden states of HuBERT with image vectors, stage 2 the trained encoder's vectors with the latents of
pictures, or its frames with the text states of captions. What the frozen networks compute is cached under
{processed_dir}/{dataset}/cache/; hidden states and frames are large, and are computed in each step where they do not
fit. B items, n samples, N hidden states, T frames, d width of HuBERT, V width of an image vector, J width of the common
space, K text states without the start state, D text width, z latent channels, h x w latent size.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonolume.config.base import CacheFeatures
from sonolume.config.s2i.wavy import Config, Head, LossConfig, PreprocessOptions, Stage
from sonolume.config.speech_pictures import SpeechPicturesConfig
from sonolume.models.a2i.frozen import cached_features, cached_moments
from sonolume.models.a2i.pairs import Images
from sonolume.models.a2i.sound_windows import Windows
from sonolume.models.a2i.text_states import Tokens, encode
from sonolume.models.s2i.wavy.encoder import SpeechVectors
from sonolume.models.s2i.wavy.hubert import Hubert
from sonolume.models.s2i.wavy.image_encoder import ImageEncoder
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors import prepared, speech_pictures
from sonolume.preprocessors.sound_pictures import pictures_of
from sonolume.utils import audio, files
from sonolume.utils.errors import UserError
from sonolume.utils.image import open_image
from sonolume.utils.shards import Column
from sonolume.utils.text import message

GB = 10**9
FREE_SHARE = 0.5  # of the free disk, which hidden states may take


class SpeechBatch(NamedTuple):
    """A batch of stage 1, or without B one item of the data set."""

    speech: Tensor  # (B, N, T, d) hidden states, or (B, n) waves
    lengths: Tensor  # (B,) frames or samples that are speech
    image: Tensor  # (B, V) image vectors, or (B, 3, H, W) pixels
    picture: Tensor  # (B,) numbers of the pictures
    group: Tensor  # (B,) equal numbers are not negatives of each other
    text: Tensor  # (B, J) vectors of the captions, or (B, 0)


class TokenBatch(NamedTuple):
    """A batch of the head token."""

    audio: Tensor  # (B, J) speech vectors
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    label: Tensor  # (B, D) zeros: there is no label


class SequenceBatch(NamedTuple):
    """A batch of the head sequence."""

    speech: Tensor  # (B, T, d) frames, or (B, n) waves
    lengths: Tensor  # (B,) frames or samples that are speech
    states: Tensor  # (B, K, D) of the captions
    text: Tensor  # (B,) numbers of the distinct captions


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Prepare recordings with pictures, or speak the captions of generated scenes."""
    assert options.dataset is not None
    speech_pictures.prepare(config.preprocess, options.dataset, options.input, options.audio_dir)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Both splits of the data of the config's stage and head; computes what is cached first."""
    kind: Any = SpeechImages
    if config.model.stage is Stage.head:
        kind = VectorPictures if config.model.head is Head.token else SpeechTexts
    return TrainingData.of(lambda split: kind(config, split, frozen))


class Recordings(Dataset[Any]):
    """Base: windows of recordings, and the numbers of their pictures, of which several recordings may share one.

    Attributes:
        samples: of each window.
        picture: number of the picture of each recording.
        files: of the pictures.
    """

    def __init__(self, config: SpeechPicturesConfig, datasets: Sequence[str], split: str, seed: int, rate: int) -> None:
        self.config, self.seed, self.split = config, seed, split
        self.rows = speech_pictures.read_split(config, datasets, split)
        self.windows = Windows(self.rows, config, rate, repeat=False)
        self.folder = prepared.cache_folder(config, datasets)
        self.length = round(config.input_length * rate)  # samples to which windows are padded
        self.samples = self._samples(rate)
        folders = {row.image: row for row in self.rows}
        numbers = {folder: number for number, folder in enumerate(folders)}
        self.picture = [numbers[row.image] for row in self.rows]
        self.files = [pictures_of(row)[0][1] for row in folders.values()]

    def _samples(self, rate: int) -> list[int]:
        """Samples of each window, from the headers of the files."""
        stored = [_stored_samples(row.audio) for row in self.rows if row.audio]
        starts = (round(float(start) * rate) for start in self.windows.starts)
        return [min(stored[sound] - start, self.length)
                for sound, start in zip(self.windows.sounds, starts, strict=True)]  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, item: tuple[int, int]) -> tuple[int, np.random.Generator]:
        """Draw a window of a recording; `item` is (epoch, index)."""
        random = np.random.default_rng([self.seed, *item])
        return self.windows.draw(item[1], random), random

    def wave(self, window: int) -> Tensor:
        """Wave of a window, padded with silence (n,)."""
        wave = self.windows[window]
        return torch.cat([wave, wave.new_zeros(self.length - len(wave))])

    def text(self, index: int, random: np.random.Generator) -> str:
        """Draw one of the captions of a recording."""
        captions = self.rows[index].captions
        return captions[random.integers(len(captions))] if captions else ""

    def check_captions(self, config: Config, remedy: str) -> None:
        """Raise a UserError if a recording has no caption to learn from."""
        missing = [row.uid for row in self.rows if not row.captions]
        if missing:
            raise UserError(f"{', '.join(config.dataset)}: {len(missing)} recordings have no Caption, such as "
                            f"{missing[0]}: {remedy}")  # fmt: skip

    def cached_speech(
        self, what: str, hubert: Hubert, network: Any, compute: Callable[[list[Tensor]], Tensor], train: Any,
        states: int = 1,
    ) -> Column | None:  # fmt: skip
        """Cache `states` arrays of frames of every window, unless `preprocess.cache_features` says otherwise."""
        size = len(self.windows) * states * hubert.frames_of(self.length) * hubert.width * 2 / GB
        policy, limit = self.config.cache_features, self.config.cache_limit
        name = f"{what} of {self.split}"
        stored = [place for place in self.folder.glob(f"{files.safe_name(name)}-*") if place.is_dir()]
        if policy is CacheFeatures.auto and not stored:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free * FREE_SHARE / GB
            if size > min(limit, free):
                message(f"{name} would take {size:.3g} GB of disk: computed in each step instead "
                        f"(preprocess.cache_limit {limit:g} GB, half of the free disk {free:.3g} GB)")  # fmt: skip
                policy = CacheFeatures.never
        if policy is CacheFeatures.never:
            return None
        more: dict[str, Any] = {"collate": list, "identity": identity_of(hubert, network)}
        return cached_features(self.folder, name, self.windows, network, compute, train, **more)


def identity_of(hubert: Hubert, network: Any) -> list[Any]:
    """Everything that decides what a network on top of HuBERT computes, for the key of a cache."""
    return [hubert.extractor.to_json_string(), list(network.state_dict().values())]


def _stored_samples(recording: Path) -> int:
    """Samples of a prepared recording, from its header."""
    try:
        return soundfile.info(audio.encoded(recording)).frames
    except soundfile.SoundFileError as error:
        raise UserError(f"{recording}: damaged: remove it, and run run_preprocess.sh again") from error


class SpeechImages(Recordings):
    """Stage 1: hidden states of recordings with the vectors of their pictures."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        self.hubert: Hubert = frozen["hubert"]
        super().__init__(config.preprocess, config.dataset, split, config.train.random_seed, self.hubert.sample_rate)
        if split == "train" and len(self.files) < 2:
            raise UserError(f"{', '.join(config.dataset)}: the recordings show {len(self.files)} picture: stage 1 "
                            "contrasts recordings of different pictures, and needs at least two")  # fmt: skip
        images: ImageEncoder = frozen["images"]
        self.pictures = Pictures(self.files, images)
        self.groups = self._groups(config.model.loss)
        self.states: Column | None = None
        self.vectors: Column | None = None
        if not config.model.speech_encoder.train:
            hidden = lambda waves: self.hubert.layers(waves, self.length)[0]                  # noqa: E731
            more = config.train, self.hubert.num_states
            self.states = self.cached_speech("hidden states", self.hubert, self.hubert.model, hidden, *more)
        if not config.model.image_encoder.train:
            name = f"image vectors of {split}"
            self.vectors = cached_features(
                self.folder, name, self.pictures, images.model, images.vectors, config.train, dtype=np.float32
            )
        self.texts: dict[str, Tensor] | None = None
        if config.model.loss.text_weight:
            self.check_captions(config, "model.loss.text_weight compares with captions; 0 does not")
            self.texts = self._cached_texts(images, config)

    def _groups(self, loss: LossConfig) -> list[int]:
        """Numbers of the recordings; those with equal ones are not negatives of each other."""
        names: list[Any] = []
        for number, row in enumerate(self.rows):
            by_picture = self.picture[number] if loss.mask_same_picture else f"recording {number}"
            names.append(f"label {row.label}" if loss.mask_same_label and row.label else by_picture)
        groups = {name: group for group, name in enumerate(dict.fromkeys(names))}
        return [groups[name] for name in names]

    def _cached_texts(self, images: ImageEncoder, config: Config) -> dict[str, Tensor]:
        """Vectors (J,) of all captions by the text encoder of CLIP."""
        captions = Captions(sorted({text for row in self.rows for text in row.captions}))
        name, network = f"caption vectors of {self.split}", images.text_encoder()
        found = cached_features(
            self.folder, name, captions, network, images.encode_tokens, config.train, dtype=np.float32,
            collate=images.tokenize,
        )  # fmt: skip
        return {text: torch.from_numpy(np.array(row)) for text, row in zip(captions.texts, found, strict=True)}

    def __getitem__(self, item: tuple[int, int]) -> SpeechBatch:
        window, random = self.draw(item)
        number = self.picture[item[1]]
        image = self.pictures[number] if self.vectors is None else torch.from_numpy(np.array(self.vectors[number]))
        text = torch.zeros(0) if self.texts is None else self.texts[self.text(item[1], random)]
        return SpeechBatch(*self.speech(window), image, torch.tensor(number), torch.tensor(self.groups[item[1]]), text)

    def speech(self, window: int) -> tuple[Tensor, Tensor]:
        """Hidden states (N, T, d) float16 of a window and its frames, or its wave (n,) and its samples."""
        samples = self.samples[window]
        if self.states is None:
            return self.wave(window), torch.tensor(samples)
        return torch.from_numpy(np.array(self.states[window])), torch.tensor(self.hubert.frames_of(samples))


class VectorPictures(Recordings):
    """Stage 2, head token: vectors of recordings with the latents of their pictures."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        vectors: SpeechVectors = frozen["vectors"]
        super().__init__(config.preprocess, config.dataset, split, config.train.random_seed, vectors.sample_rate)
        self.images, sd = Images(self.files, config.preprocess), frozen["sd"]
        self.moments = cached_moments(self.folder, split, self.images, sd.vae, config.train)
        name = f"speech vectors of {split}"
        self.vectors = cached_features(
            self.folder, name, self.windows, vectors.network, vectors.encode, config.train, dtype=np.float32,
            collate=list, identity=identity_of(vectors.hubert, vectors.network),
        )  # fmt: skip
        self.label = torch.zeros(sd.text_encoder.config.hidden_size)
        self.first_window, self.first_image = self.windows.first, self.picture

    def __getitem__(self, item: tuple[int, int]) -> TokenBatch:
        window, _ = self.draw(item)
        moments = torch.from_numpy(self.moments[self.picture[item[1]]].astype(np.float32))
        return TokenBatch(self.audio(window), moments, self.label)

    def audio(self, window: int) -> Tensor:
        """Speech vector (J,) of a window."""
        return torch.from_numpy(np.array(self.vectors[window]))


class SpeechTexts(Recordings):
    """Stage 2, head sequence: frames of recordings with the text states of their captions.

    states: (S, K, D) float16, one for each distinct caption, without the start state.
    """

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        vectors: SpeechVectors = frozen["vectors"]
        self.hubert = vectors.hubert
        super().__init__(config.preprocess, config.dataset, split, config.train.random_seed, vectors.sample_rate)
        self.check_captions(config, "model.head sequence learns from captions; token does not")
        weighted = lambda waves: vectors.frames(waves, self.length)[0]                        # noqa: E731
        self.frames = self.cached_speech("weighted frames", self.hubert, vectors.network, weighted, config.train)
        self.texts = list(dict.fromkeys(text for row in self.rows for text in row.captions))
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        tokenizer, text_encoder = frozen["tokenizer"], frozen["text_encoder"]
        tokens = Tokens(self.texts, tokenizer, frozen["num_states"] + 1, False)
        name, states = f"text states of {split}", partial(encode, text_encoder)
        self.states = cached_features(self.folder, name, tokens, text_encoder, states, config.train)

    def __getitem__(self, item: tuple[int, int]) -> SequenceBatch:
        window, random = self.draw(item)
        number = self.numbers[self.text(item[1], random)]
        states = torch.from_numpy(self.states[number].astype(np.float32))
        return SequenceBatch(*self.speech(window), states, torch.tensor(number))

    def speech(self, window: int) -> tuple[Tensor, Tensor]:
        """Frames (T, d) of a window and their number, or its wave (n,) and its samples."""
        samples = self.samples[window]
        if self.frames is None:
            return self.wave(window), torch.tensor(samples)
        frames = torch.from_numpy(self.frames[window].astype(np.float32))
        return frames, torch.tensor(self.hubert.frames_of(samples))


class Pictures(Dataset[Tensor]):
    """Pixels (3, H, W) of pictures, as an image encoder takes them."""

    def __init__(self, files: Sequence[Path], images: ImageEncoder) -> None:
        self.files, self.images = files, images

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        return self.images.pixels([open_image(self.files[number])])[0]

    def versions(self) -> list[Any]:
        """Everything that decides the pixels, for the key of a cache."""
        return [self.images.processor.to_json_string(), [(str(one), one.stat().st_mtime_ns) for one in self.files]]


class Captions(Dataset[str]):
    """Distinct captions."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> str:
        return self.texts[number]

    def versions(self) -> list[str]:
        """The captions, for the key of a cache."""
        return self.texts
