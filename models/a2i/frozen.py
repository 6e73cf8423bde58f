"""Frozen networks of audio-to-image training: loaded once, features cached."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from sonolume.config.base import TrainConfig
from sonolume.models.a2i.loading import load_stable_diffusion, load_text_encoder
from sonolume.models.precision import FULL, usable
from sonolume.preprocessors import parallel
from sonolume.preprocessors.stages import Progress, Stage, compute, device_of, in_threads, on_device, sizes_of
from sonolume.utils import paths
from sonolume.utils.shards import Column, ShardWriter
from sonolume.utils.text import printable

CACHE_VERSION = 3  # raise it to invalidate all cached features
BATCH_SIZE = 8  # inputs of one forward pass
VALUES = "values"  # column of the features
START_SECONDS = 0.5  # of a process that loads data, a copy of this one


def frozen_stable_diffusion(source: str) -> Any:
    """Load the frozen pipeline of the config key model.stable_diffusion, without its safety checker."""
    key = "model.stable_diffusion"
    place = paths.locate(source, key, "a folder or a hub id of Stable Diffusion 1.x or 2.x")
    sd = load_stable_diffusion(place, key, torch.float32, safety_checker=False)
    for network in (sd.unet, sd.vae, sd.text_encoder):
        network.eval().requires_grad_(False)
    sd.set_progress_bar_config(disable=True)
    return sd


def frozen_text_encoder(source: str) -> tuple[Any, Any]:
    """Load the tokenizer and the frozen text encoder of the config key model.stable_diffusion, and nothing else of it.

    Raises:
        UserError: no Stable Diffusion, or its text encoder is missing or damaged.
    """
    key = "model.stable_diffusion"
    place = paths.locate(source, key, "a folder or a hub id of Stable Diffusion 1.x or 2.x")
    return load_text_encoder(place, key)


def cached_features(
    folder: Path, name: str, inputs: Any, network: torch.nn.Module | None, encode: Callable[[Any], Tensor],
    train: TrainConfig, dtype: type[np.generic] = np.float16, exact: bool = False,
    collate: Callable[[list[Any]], Any] | None = None, identity: Any = None,
) -> Column:  # fmt: skip
    """Features of all inputs by a frozen encoder, (len(inputs), ...), in shards; computed once.

    Before they are computed, their size on disk is printed.

    Args:
        folder, name: of the cache; the progress bar shows the name.
        inputs: data set with `versions()`, which decides whether the cached features are still valid.
        network: moved to the device of training and back; None if the encoder is no network with weights, such as a
            front end. It then runs on the CPU, and `identity` is needed.
        encode: from a batch of inputs to features; tensors are moved to the network's device before.
        dtype: of the result, such as an integer type for tokens.
        exact: compute in full precision, whatever that of training.
        collate: batches the inputs; by default they are tensors.
        identity: what decides the features besides the inputs; by default the weights of the network.
    """
    precision = FULL if exact else usable(str(train.precision), device_of(train).type)
    device = device_of(train) if network is not None else torch.device("cpu")

    @torch.no_grad()
    def features(batch: Any) -> np.ndarray:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.startswith("bf16")):
            found = encode(batch.to(device) if isinstance(batch, Tensor) else batch)
        return (found if dtype != np.float16 else found.half()).cpu().numpy().astype(dtype, copy=False)

    def write(writer: ShardWriter, rows: range, progress: Progress) -> None:
        read = batches(Subset(inputs, rows), train.num_workers, collate)
        for found in in_threads(features, read, device):
            if rows.start == writer.rows == 0:
                _print_size(name, (len(inputs), *found.shape[1:]), found.itemsize, folder)
            writer.append(VALUES, found)
            progress(len(found))

    if identity is None:
        assert network is not None, "an encoder without weights needs an identity"
        identity = network.state_dict().values()
    key = CACHE_VERSION, precision, inputs.versions(), identity
    stage = Stage(name, key, lambda: sizes_of(len(inputs)), write, lambda: on_device(device, network))
    return compute(stage, folder).column(VALUES)


def _print_size(name: str, shape: tuple[int, ...], itemsize: int, folder: Path) -> None:
    values, size = " x ".join(map(str, shape)), math.prod(shape) * itemsize / 1e9
    line = f"{name}: {values} x {itemsize} bytes = {size:.3g} GB of disk in {folder}"
    tqdm.write(printable(line), sys.stderr)


def batches(inputs: Any, num_workers: int, collate: Callable[[list[Any]], Any] | None) -> Iterator[Any]:
    """Batches of a data set in order; `num_workers` processes take over the rest when that is faster."""
    seconds: deque[float] = deque(maxlen=parallel.RECENT)
    alone = iter(DataLoader(inputs, BATCH_SIZE, collate_fn=collate))
    for first in range(0, len(inputs), BATCH_SIZE):
        left = math.ceil((len(inputs) - first) / BATCH_SIZE)
        if num_workers and parallel.processes_worth(seconds, left, max(2, num_workers), START_SECONDS) > 1:
            rest = Subset(inputs, range(first, len(inputs)))
            yield from DataLoader(rest, BATCH_SIZE, num_workers=num_workers, collate_fn=collate)
            return
        start = time.perf_counter()
        batch = next(alone)
        if first:  # the first batch loads libraries
            seconds.append(time.perf_counter() - start)
        yield batch


def cached_moments(folder: Path, split: str, images: Any, vae: Any, train: TrainConfig) -> Column:
    """Mean and log-variance of the latents of images, (N, 2z, h, w), by `cached_features`."""

    def moments(pictures: Tensor) -> Tensor:
        posterior = vae.encode(pictures).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)                           # (b, 2z, h, w)

    return cached_features(folder, f"moments of {split}", images, vae, moments, train)

