"""Training data of the latent diffusion model: VAE moments and text states, cached on disk.

The cache is a folder of flat arrays in {processed_dir}/{dataset}/cache/, which are memory-mapped, so that many workers
and large data sets share them.

With `model.text_mask` false the U-Net attends to padding, as the official weights do: to T5's outputs there, which
depend on the text. They are cached as well, up to the longest caption of the split; a batch takes its own longest.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.options import PreprocessOptions
from sonolume.config.tta.audioldm import Config, DistillStage
from sonolume.models.precision import usable
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.audioldm import components
from sonolume.models.tta.features import feature_keys, mel_batches, read_rows
from sonolume.preprocessors.prepared import cache_folder
from sonolume.utils import paths
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row
from sonolume.utils.text import message

CACHE_VERSION = 3  # bump to invalidate cached moments and states
TEXT_BATCH_SIZE = 64  # captions in one forward pass of T5


class Batch(NamedTuple):
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    states: Tensor  # (B, L, D) text states; at padding zeros, or T5's outputs with `text_mask` off
    mask: Tensor  # (B, L) 1 for text


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Recordings or scenes -> manifest and mel features; then moments and text states if the VAE is there."""
    from sonolume.preprocessors import text_audio  # training does not need it

    assert options.dataset is not None
    text_audio.prepare(config.preprocess, options.dataset, options.input, audio_dir=options.audio_dir)
    if (paths.resolve(config.model.autoencoder_path) / "config.json").is_file():
        training_data(config, components.load_encoders(config))
    else:
        print(f"{config.model.autoencoder_path}: not trained yet: its latents are cached when training starts")


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Datasets of both splits in batches of `Batch`; `frozen` "vae" and "text" fill the cache where needed.

    Those of a distillation are sampling paths of the teacher, `frozen["pipeline"]`.
    """
    if config.model.distill.stage is not DistillStage.none:
        from sonolume.models.tta.audioldm import paths as sampling_paths

        return sampling_paths.training_data(config, frozen)
    return TrainingData.of(lambda split: LatentDataset(config, split, frozen), collate)


Item = tuple[Tensor, Tensor, int]  # moments (2z, h, w), text states (L, D), number of tokens without padding


class LatentDataset(Dataset[Item]):
    """Items of one split; captions alternate, some are emptied in training."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        rows = read_rows(config.preprocess, config.dataset, split, captions=True)
        self.rows = _without_long_captions(rows, split, frozen["text"])
        self.texts = [row.captions[0] for row in self.rows]  # for previews
        folder = _cache(config, split, self.rows, frozen["vae"], frozen["text"])
        self.moments = np.load(folder / "moments.npy", mmap_mode="r")  # (N, 2z, h, w)
        self.states = np.load(folder / "states.npy", mmap_mode="r")  # (all tokens, D)
        self.ends = np.load(folder / "ends.npy")  # (captions,) end of each caption's states
        self.counts = np.load(folder / "counts.npy")  # (captions,) tokens of each caption, without padding
        self.firsts = np.load(folder / "firsts.npy")  # (N + 1,) first caption of each clip
        self.empty = frozen["text"]([""], length=int(self.counts.max(initial=1)))[0]  # (L, D)
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
        start = self.ends[number - 1] if number else 0
        states = torch.from_numpy(self.states[start : self.ends[number]].astype(np.float32))  # (L, D)
        return moments, states, int(self.counts[number])


def collate(items: list[Item]) -> Batch:
    """Pad to the longest caption of the batch."""
    moments, states, counts = zip(*items, strict=True)
    return Batch(torch.stack(moments), *pad_states(states, counts))


def pad_states(states: Sequence[Tensor], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Text states (l, D) of texts with `counts` tokens each -> padded (B, L, D), and mask (B, L), 1 for text."""
    longest = max(counts)
    mask = torch.arange(longest)[None] < torch.tensor(counts)[:, None]
    return torch.nn.utils.rnn.pad_sequence([state[:longest] for state in states], batch_first=True), mask.long()


def _without_long_captions(rows: list[Row], split: str, text: components.TextEncoder) -> list[Row]:
    """Leave out captions of more tokens than T5 reads, and clips that have no other caption.

    Raises:
        UserError: no clip is left.
    """
    # a character has at most four tokens (bytes), and the tokenizer adds two at most
    unsure = [caption for row in rows for caption in row.captions if 4 * len(caption) + 2 > text.max_tokens]
    counts = zip(unsure, text.count(unsure), strict=True)
    long = {caption for caption, count in counts if count > text.max_tokens}
    if not long:
        return rows
    kept = [replace(row, captions=[caption for caption in row.captions if caption not in long]) for row in rows]
    kept = [row for row in kept if row.captions]
    what = f"of more than {text.max_tokens} tokens, which the text encoder cannot read"
    if not kept:
        raise UserError(f"{split}: has no captions but {what}: shorten them")
    message(f"{split}: {len(long)} captions {what}, and {len(rows) - len(kept)} clips without another are left out")
    return kept


def _cache(config: Config, split: str, rows: list[Row], vae: AutoencoderKL, text: components.TextEncoder) -> Path:
    def make(folder: Path) -> None:
        np.save(folder / "moments.npy", _moments(config, split, rows, vae))
        _save_states(split, rows, text, folder)

    weights = content_hash(vae.state_dict().values(), text.model.parameters())
    settings = [CACHE_VERSION, config.preprocess.frames, config.model.text_mask, usable(config.train.precision, "cpu")]
    key = [weights, settings, feature_keys(config.preprocess, rows), [row.captions for row in rows]]
    return cached(cache_folder(config.preprocess, config.dataset), key, make, "latents and texts")


@torch.no_grad()
def _moments(config: Config, split: str, rows: list[Row], vae: AutoencoderKL) -> np.ndarray:
    """VAE moments (N, 2z, h, w), float16."""
    parts = []
    for batch in mel_batches(config.preprocess, rows, f"latents of {split}"):
        with torch.autocast("cpu", torch.bfloat16, enabled=usable(config.train.precision, "cpu").startswith("bf16")):
            posterior = vae.encode(batch).latent_dist
        parts.append(torch.cat([posterior.mean, posterior.logvar], dim=1).half().numpy())
    return np.concatenate(parts)


def _save_states(split: str, rows: list[Row], text: components.TextEncoder, folder: Path) -> None:
    """Write the text states of all captions one after the other, float16, with their index."""
    captions = [caption for row in rows for caption in row.captions]
    counts = np.array(text.count(captions), dtype=np.int64)
    lengths = counts if text.masked else np.full_like(counts, counts.max(initial=1))
    ends = np.cumsum(lengths)
    np.save(folder / "firsts.npy", np.cumsum([0] + [len(row.captions) for row in rows]))
    np.save(folder / "counts.npy", counts)
    np.save(folder / "ends.npy", ends)
    shape = (int(lengths.sum()), text.model.config.d_model)
    states = np.lib.format.open_memmap(folder / "states.npy", "w+", np.float16, shape)
    order = np.argsort(counts, kind="stable")  # neighbours of similar length need little padding
    for start in tqdm(range(0, len(order), TEXT_BATCH_SIZE), desc=f"texts of {split}", unit="batch"):
        numbers = order[start : start + TEXT_BATCH_SIZE]
        found = text([captions[number] for number in numbers], length=int(lengths[numbers].max()))
        for number, state in zip(numbers, found, strict=True):
            states[ends[number] - lengths[number] : ends[number]] = state.half().cpu().numpy()
    states.flush()
