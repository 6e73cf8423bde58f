"""Training data of the latent diffusion model: VAE moments and text states, cached on disk.

The cache is a folder of flat arrays in {processed_dir}/{dataset}/cache/, which are memory-mapped, so that many workers
and large data sets share them.

Text states that are too large for the disk are computed in the training step; the cache then holds tokens.

With `model.text_mask` false the U-Net attends to padding, as the official weights do: to T5's outputs there, which
depend on the text. They are cached as well, up to the longest caption of the split; a batch takes its own longest.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset
from transformers import BatchEncoding

from sonolume.config.base import CacheFeatures
from sonolume.config.options import PreprocessOptions
from sonolume.config.tta.audioldm import Config, DistillStage
from sonolume.models import previews
from sonolume.models.data_order import Order
from sonolume.models.precision import usable
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.audioldm import components
from sonolume.models.tta.audioldm.batches import Item, collate
from sonolume.models.tta.features import BATCH_SIZE, MelFiles, MelShards, open_mels, prepare_mels, rows_of_groups
from sonolume.preprocessors import sound_shards, stages
from sonolume.preprocessors.prepared import LeftOut, cache_folder, is_sharded
from sonolume.preprocessors.sound_shards import ROW, Rows
from sonolume.preprocessors.stages import Progress, Stage, compute, device_of, in_threads, on_device
from sonolume.utils import paths
from sonolume.utils.cache import content_hash
from sonolume.utils.errors import UserError
from sonolume.utils.manifest import Row, record
from sonolume.utils.prefetch import Prefetch
from sonolume.utils.shards import INDEX_FILE, Shards, ShardWriter
from sonolume.utils.text import message

CACHE_VERSION = 4  # bump to invalidate cached moments and states
MOMENTS, STATES, LENGTHS, COUNTS = "moments", "states", "lengths", "counts"  # columns
TOKENS = "tokens"  # column, in the place of states and lengths, if states are computed in the training step
TEXT_BATCH_SIZE = 64  # captions in one forward pass of T5
SAMPLED_ROWS = 1000  # from whose captions the size of all text states is estimated
GB = 10**9  # bytes


def preprocess(config: Config, options: PreprocessOptions) -> None:
    """Recordings or scenes -> manifest and mel features; then moments and text states if the VAE is there."""
    assert options.dataset is not None
    prepare_mels(config.preprocess, options, captions=True)
    in_shards = is_sharded(config.preprocess, options.dataset)
    if in_shards or options.dataset not in config.dataset:  # each data set in shards keeps its own latents
        config = config.of_dataset(options.dataset)
    folder = paths.resolve(config.model.autoencoder_path)  # of a VAE, or of a pipeline that contains one
    if not (folder / "config.json").is_file() and not (folder / "vae" / "config.json").is_file():
        print(f"{config.model.autoencoder_path}: not trained yet: its latents are cached when training starts")
        return
    data: Any = training_data(config, components.load_encoders(config))
    if in_shards and not config.preprocess.keep_mels and stages.is_complete():  # otherwise the mels are counted
        splits = sound_shards.splits(config.preprocess, options.dataset)
        opened = {name: getattr(data, name).shards for name in ("train", "valid") if name in splits}
        sound_shards.report(config.preprocess, options.dataset, opened)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Datasets of both splits in batches of `Batch` or `TokenBatch`; `frozen` "vae" and "text" fill the cache.

    Those of a distillation are sampling paths of the teacher, `frozen["pipeline"]`.
    """
    if config.model.distill.stage is not DistillStage.none:
        from sonolume.models.tta.audioldm import paths as sampling_paths

        return sampling_paths.training_data(config, frozen)
    padding = frozen["text"].tokenizer.pad_token_id
    return TrainingData.of(lambda split: LatentDataset(config, split, frozen), partial(collate, padding=padding))


class LatentDataset(Dataset[Item]):
    """Items of one split; captions alternate, some are emptied in training."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        text: components.TextEncoder = frozen["text"]
        mels = open_mels(config.preprocess, config.dataset, split, captions=True)
        if isinstance(mels, MelFiles):
            mels.rows = _without_long_captions(list(mels.rows), split, text)
        self.shards_of_datasets = mels.shards_of_datasets
        self.shards = Shards.joined([compute(*place) for place in _stages(config, split, mels, frozen["vae"], text)])
        self.rows = mels.rows if isinstance(mels, MelFiles) else Rows(self.shards.column(ROW), mels.folder)
        self.texts = [row.captions[0] for row in self.rows[: previews.COUNT]]
        self.moments = self.shards.column(MOMENTS)  # (N, 2z, h, w)
        self.has_states = TOKENS not in self.shards.columns  # otherwise the training step encodes tokens
        # (tokens of all captions of a clip, D), or (tokens of all captions of a clip,)
        self.encoded = self.shards.column(STATES if self.has_states else TOKENS)
        self.counts = self.shards.column(COUNTS)  # (captions of a clip,) tokens of each, without padding
        self.lengths = self.shards.column(LENGTHS) if self.has_states else self.counts  # of each in `encoded`
        self.empty = self._empty(text)  # (L, D) or (L,)
        self.seed = config.train.random_seed
        self.drop = config.preprocess.cond_mask_prob if split == "train" else 0.0

    def __len__(self) -> int:
        return len(self.moments)

    def _empty(self, text: components.TextEncoder) -> Tensor:
        """The empty text, as `encoded`."""
        if not self.has_states:
            return text.tokenize([""]).input_ids[0]
        padded = 0 if text.masked or not len(self.rows) else int(self.lengths[0][0])
        return text([""], length=padded)[0]

    def shard_rows(self) -> list[int]:
        """Number of rows of each shard, for the order of training."""
        return self.shards.shard_rows.tolist()

    def prefetch(self, order: Order) -> Prefetch:
        """Download the shards that a training needs next, if they are in an object store."""
        columns = [name for name in self.shards.columns if name != ROW]
        return Prefetch(self.shards, columns, lambda position: order.item(position)[1])

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
        encoded = self.encoded[index][start : ends[number]]                                       # (L, D) or (L,)
        text = torch.from_numpy(encoded.astype(np.float32 if self.has_states else np.int64))
        return moments, text, int(counts[number])


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


def _stages(
    config: Config, split: str, mels: MelFiles | MelShards, vae: AutoencoderKL, text: components.TextEncoder
) -> list[tuple[Stage, Path]]:
    """Stages with their folders: one for each data set in shards, one for all data sets in files.

    Raises:
        UserError: text states are to be stored for some of the data sets only.
    """
    padded = 0 if text.masked else max([1, *text.count(list(mels.captions()))])
    found: list[tuple[Stage, Path]] = []
    names: dict[bool, str] = {}  # whether text states are stored -> data set
    for group in [mels] if isinstance(mels, MelFiles) else mels.by_dataset():
        folder = cache_folder(config.preprocess, group.datasets)
        stage = _stage(config, split, group, vae, text, padded)
        exists = (stage.folder(folder) / INDEX_FILE).is_file()
        is_stored = _stores_states(config, split, group, text, padded, exists)
        found.append((stage if is_stored else _stage(config, split, group, vae, text, None), folder))
        names[is_stored] = group.datasets[0]
    if len(names) > 1:
        raise UserError(f"preprocess.cache_texts auto: the text states of {names[True]} are within "
                        f"preprocess.cache_limit, those of {names[False]} are not: choose always or never")  # fmt: skip
    return found


def _stores_states(
    config: Config, split: str, mels: MelFiles | MelShards, text: components.TextEncoder, padded: int, exists: bool
) -> bool:
    """Whether the text states of a split are stored; if none `exists`, their size is estimated from its first rows."""
    policy, limit = config.preprocess.cache_texts, config.preprocess.cache_limit
    if policy is not CacheFeatures.auto or exists:
        return policy is not CacheFeatures.never
    captions = [caption for row in mels.all_rows[:SAMPLED_ROWS] for caption in row.captions]
    tokens = padded * len(captions) or sum(text.count(captions))  # of the sampled rows
    size = tokens * max(1, len(mels.all_rows) / SAMPLED_ROWS) * text.model.config.d_model * 2 / GB
    if size > limit:
        message(f"{mels.datasets[0]}: the text states of {split} would take {size:.3g} GB of disk: computed in each "
                f"training step instead (preprocess.cache_limit {limit:g} GB)")  # fmt: skip
    return size <= limit


def _stage(
    config: Config, split: str, mels: MelFiles | MelShards, vae: AutoencoderKL, text: components.TextEncoder,
    padded: int | None,
) -> Stage:  # fmt: skip
    """Stage of the VAE moments of a split and the text states of its captions; with mels in shards, of its rows too.

    Args:
        padded: number of states of each caption, with padding; 0 for those of its tokens; None for the tokens in the
            place of states.
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
        captions = [rows[number].captions for number in numbers]
        if padded is None:
            _write_tokens(writer, captions, text)
        else:
            _write_states(writer, captions, text, padded)

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

    settings: list[Any] = [CACHE_VERSION, config.preprocess.frames]
    if padded is None:
        weights = content_hash(vae.state_dict().values())
        settings += [precision, sorted(text.tokenizer.get_vocab().items())]
    else:
        weights = content_hash(vae.state_dict().values(), text.model.parameters())
        settings += [config.model.text_mask, padded, precision]
    key = [weights, settings, mels.key]
    if isinstance(mels, MelFiles):
        key += [[row.captions for row in mels.rows]]
    networks = partial(on_device, device, vae, None if padded is None else text.model)
    name = f"latents and {'tokens' if padded is None else 'texts'} of {split}"
    return Stage(name, key, lambda: mels.shard_rows, write, networks)


def _write_tokens(writer: ShardWriter, captions: list[list[str]], text: components.TextEncoder) -> None:
    """Write the tokens of the captions of some clips, and their numbers."""
    for some in captions:
        tokens = text.tokenizer(some, verbose=False).input_ids
        writer.append_ragged(TOKENS, [np.concatenate(tokens).astype(np.int32)])
        writer.append_ragged(COUNTS, [np.array([len(one) for one in tokens], np.int64)])


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
