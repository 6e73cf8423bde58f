"""Training data of the latent diffusion model: VAE moments and text states, cached on disk.

The cache is a folder of flat arrays in {processed_dir}/{dataset}/cache/, which are memory-mapped, so that many workers
and large data sets share them.

With `model.text_mask` false the U-Net attends to padding, as the official weights do: to T5's outputs there, which
depend on the text. They are cached as well, up to the longest caption of the split; a batch takes its own longest.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BatchEncoding

from sonolume.config.options import PreprocessOptions
from sonolume.config.tta.audioldm import Config, DistillStage
from sonolume.models import previews
from sonolume.models.data_order import Order
from sonolume.models.precision import usable
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.audioldm import components
from sonolume.models.tta.features import BATCH_SIZE, MelFiles, MelShards, open_mels, prepare_mels, rows_of_groups
from sonolume.preprocessors import stages
from sonolume.preprocessors.prepared import LeftOut, cache_folder
from sonolume.preprocessors.sound_shards import ROW, Rows
from sonolume.preprocessors.stages import Progress, Stage, compute, device_of, in_threads, on_device
from sonolume.utils import paths
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, record
from sonolume.utils.prefetch import Prefetch
from sonolume.utils.shards import Shards, ShardWriter
from sonolume.utils.text import message

CACHE_VERSION = 4  # bump to invalidate cached moments and states
MOMENTS, STATES, LENGTHS, COUNTS = "moments", "states", "lengths", "counts"  # columns
TEXT_BATCH_SIZE = 64  # captions in one forward pass of T5


class Batch(NamedTuple):
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    states: Tensor  # (B, L, D) text states; at padding zeros, or T5's outputs with `text_mask` off
    mask: Tensor  # (B, L) 1 for text


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Recordings or scenes -> manifest and mel features; then moments and text states if the VAE is there."""
    assert options.dataset is not None
    prepare_mels(config.preprocess, options, captions=True)
    if options.dataset not in config.dataset:
        config = replace(config, dataset=[options.dataset])
    folder = paths.resolve(config.model.autoencoder_path)  # of a VAE, or of a pipeline that contains one
    if (folder / "config.json").is_file() or (folder / "vae" / "config.json").is_file():
        data: Any = training_data(config, components.load_encoders(config))
        if not config.preprocess.keep_mels and not stages.is_partial():  # otherwise the mels are counted
            print(f"{', '.join(config.dataset)}: {len(data.train):,} train, {len(data.valid):,} valid")
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
        text: components.TextEncoder = frozen["text"]
        mels = open_mels(config.preprocess, config.dataset, split, captions=True)
        if isinstance(mels, MelFiles):
            mels.rows = _without_long_captions(list(mels.rows), split, text)
        self.shards_of_datasets = mels.shards_of_datasets
        padded = 0 if text.masked else max([1, *text.count(list(mels.captions()))])
        groups = [mels] if isinstance(mels, MelFiles) else mels.by_dataset()
        to_compute = [_stage(config, split, group, frozen["vae"], text, padded) for group in groups]
        folders = [cache_folder(config.preprocess, group.datasets) for group in groups]
        self.shards = Shards.joined([compute(*pair) for pair in zip(to_compute, folders, strict=True)])
        self.rows = mels.rows if isinstance(mels, MelFiles) else Rows(self.shards.column(ROW), mels.folder)
        self.texts = [row.captions[0] for row in self.rows[: previews.COUNT]]
        self.moments = self.shards.column(MOMENTS)  # (N, 2z, h, w)
        self.states = self.shards.column(STATES)  # (tokens of all captions of a clip, D)
        self.lengths = self.shards.column(LENGTHS)  # (captions of a clip,) states of each
        self.counts = self.shards.column(COUNTS)  # (captions of a clip,) tokens of each, without padding
        padded = 0 if text.masked or not len(self.rows) else int(self.lengths[0][0])
        self.empty = text([""], length=padded)[0]  # (L, D)
        self.seed = config.train.random_seed
        self.drop = config.preprocess.cond_mask_prob if split == "train" else 0.0

    def __len__(self) -> int:
        return len(self.moments)

    def shard_rows(self) -> list[int]:
        """Number of rows of each shard, for the order of training."""
        return self.shards.shard_rows.tolist()

    def prefetch(self, order: Order) -> Prefetch:
        """Download the shards that a training needs next, if they are in an object store."""
        return Prefetch(self.shards, [MOMENTS, STATES, LENGTHS, COUNTS], lambda position: order.item(position)[1])

    def dataset_sizes(self) -> list[int]:
        """Number of rows of each data set, for the order of training."""
        return rows_of_groups(self.shard_rows(), self.shards_of_datasets)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        random = np.random.default_rng([self.seed, epoch, index])
        moments = torch.from_numpy(self.moments[index].astype(np.float32))
        if random.uniform() < self.drop:
            return moments, self.empty, 1
        counts, ends = self.counts[index], np.cumsum(self.lengths[index])
        number = int(random.integers(0, len(counts)))
        start = ends[number - 1] if number else 0
        states = torch.from_numpy(self.states[index][start : ends[number]].astype(np.float32))  # (L, D)
        return moments, states, int(counts[number])


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
    short = [replace(row, captions=captions) for row, captions in zip(rows, _short_captions(rows, text), strict=True)]
    kept = [row for row in short if row.captions]
    long = {text for row in rows for text in row.captions} - {text for row in kept for text in row.captions}
    if not long:
        return rows
    what = f"of more than {text.max_tokens} tokens, which the text encoder cannot read"
    if not kept:
        raise UserError(f"{split}: has no captions but {what}: shorten them")
    message(f"{split}: {len(long)} captions {what}, and {len(rows) - len(kept)} clips without another are left out")
    return kept


def _short_captions(rows: Sequence[Row], text: components.TextEncoder) -> list[list[str]]:
    """Captions of each row that the text encoder can read."""
    # a character has at most four tokens (bytes), and the tokenizer adds two at most
    unsure = [caption for row in rows for caption in row.captions if 4 * len(caption) + 2 > text.max_tokens]
    counts = zip(unsure, text.count(unsure), strict=True)
    long = {caption for caption, count in counts if count > text.max_tokens}
    return [[caption for caption in row.captions if caption not in long] for row in rows]


def _stage(
    config: Config, split: str, mels: MelFiles | MelShards, vae: AutoencoderKL, text: components.TextEncoder,
    padded: int,
) -> Stage:  # fmt: skip
    """Stage of the VAE moments of a split and the text states of its captions; with mels in shards, of its rows too.

    Args:
        padded: number of states of each caption, with padding; 0 for those of its tokens.
    """
    device = device_of(config.train)
    precision = usable(config.train.precision, device.type)

    @torch.no_grad()
    def encode(batch: list[Tensor]) -> np.ndarray:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            posterior = vae.encode(torch.stack(batch).to(device)).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1).half().cpu().numpy()          # (b, 2z, h, w)

    def write_clips(writer: ShardWriter, rows: Sequence[Row], get: Callable[[int], Tensor], progress: Progress) -> None:
        numbers = [number for number, row in enumerate(rows) if row.captions]
        batches = (numbers[start : start + BATCH_SIZE] for start in range(0, len(numbers), BATCH_SIZE))
        for found in in_threads(encode, ([get(number) for number in batch] for batch in batches), device):
            writer.append(MOMENTS, found)
            progress(len(found))
        _write_states(writer, [rows[number].captions for number in numbers], text, padded)

    def write(writer: ShardWriter, some: range, progress: Progress) -> None:
        if isinstance(mels, MelFiles):
            write_clips(writer, mels.rows[some.start : some.stop], lambda number: mels[some[number]], progress)
            return
        with mels.clips(writer) as clips:
            captions = _short_captions(clips.rows, text)
            rows = [replace(row, captions=kept) for row, kept in zip(clips.rows, captions, strict=True)]
            for row in rows:
                if not row.captions:
                    writer.leave_out(**asdict(LeftOut.of(row, "no caption", "or only captions that are too long")))
            writer.append_json(ROW, (record(row, mels.folder) for row in rows if row.captions))
            write_clips(writer, rows, clips.__getitem__, progress)

    weights = content_hash(vae.state_dict().values(), text.model.parameters())
    settings = [CACHE_VERSION, config.preprocess.frames, config.model.text_mask, padded, precision]
    key = [weights, settings, mels.key]
    if isinstance(mels, MelFiles):
        key += [[row.captions for row in mels.rows]]
    networks = partial(on_device, device, vae, text.model)
    return Stage(f"latents and texts of {split}", key, lambda: mels.shard_rows, write, networks)


def _write_states(writer: ShardWriter, captions: list[list[str]], text: components.TextEncoder, padded: int) -> None:
    """Write the text states of the captions of some clips, float16, with the numbers of states and tokens of each."""
    flat = [caption for some in captions for caption in some]
    counts = np.array(text.count(flat), dtype=np.int64)
    lengths = np.full_like(counts, padded) if padded else counts
    order = np.argsort(counts, kind="stable")  # neighbours of similar length need little padding
    batches = [order[start : start + TEXT_BATCH_SIZE] for start in range(0, len(order), TEXT_BATCH_SIZE)]

    def encode(batch: tuple[BatchEncoding, int]) -> list[np.ndarray]:
        return [state.half().cpu().numpy() for state in text.encode(*batch)]

    longest = [int(lengths[numbers].max()) for numbers in batches]
    # in this thread: a tokenizer cannot be used by several at once
    tokens = (
        (text.tokenize([flat[number] for number in numbers], length), length)
        for numbers, length in zip(batches, longest, strict=True)
    )
    states: list[np.ndarray] = [np.zeros(0)] * len(flat)
    for numbers, found in zip(batches, in_threads(encode, tokens, text.model.device), strict=True):
        for number, state in zip(numbers, found, strict=True):
            states[number] = state
    start = 0
    for some in captions:
        stop = start + len(some)
        writer.append_ragged(STATES, [np.concatenate(states[start:stop])])
        writer.append_ragged(LENGTHS, [lengths[start:stop]])
        writer.append_ragged(COUNTS, [counts[start:stop]])
        start = stop
