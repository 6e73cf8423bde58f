"""Frozen networks of audio-to-image training: loaded once, features cached, weights noted in checkpoints."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sonolume.config.base import TrainConfig
from sonolume.models.a2i.loading import load_stable_diffusion
from sonolume.utils import paths
from sonolume.utils.cache import cached
from sonolume.utils.errors import UserError

CACHE_VERSION = 2  # raise it to invalidate all cached features
BATCH_SIZE = 8  # inputs of one forward pass


def frozen_stable_diffusion(source: str) -> Any:
    """Load the frozen pipeline of the config key model.stable_diffusion, without its safety checker."""
    key = "model.stable_diffusion"
    place = paths.locate(source, key, "a folder or a hub id of Stable Diffusion 1.x or 2.x")
    sd = load_stable_diffusion(place, key, torch.float32, safety_checker=False)
    for network in (sd.unet, sd.vae, sd.text_encoder):
        network.eval().requires_grad_(False)
    sd.set_progress_bar_config(disable=True)
    return sd


def cached_features(
    folder: Path, name: str, inputs: Any, network: torch.nn.Module, encode: Callable[[Tensor], Tensor],
    train: TrainConfig,
) -> np.ndarray:  # fmt: skip
    """Features of a frozen network for all inputs, (len(inputs), ...) float16, memory-mapped; computed once.

    Args:
        folder: folder of the caches of a data set.
        name: name of the features, for the cache's folder and the progress bar.
        inputs: data set of tensors with `versions()`, which decides whether the cached features are still valid.
        encode: from a batch of inputs, on the network's device, to features.
        train: its precision and accelerator are used.
    """

    @torch.no_grad()
    def compute(unfinished: Path) -> None:
        path, rows, done = unfinished / f"{name}.npy", None, 0
        use_cuda = train.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if use_cuda else "cpu")
        network.to(device)
        loader = DataLoader(inputs, BATCH_SIZE, num_workers=train.num_workers)
        for batch in tqdm(loader, desc=f"caching {name}", unit="batch", disable=not len(inputs)):
            with torch.autocast(device.type, torch.bfloat16, enabled=train.precision.startswith("bf16")):
                found = encode(batch.to(device)).half().cpu().numpy()
            if rows is None:
                rows = np.lib.format.open_memmap(path, "w+", np.float16, (len(inputs), *found.shape[1:]))
            rows[done : done + len(found)] = found
            done += len(found)
        network.to("cpu")
        if rows is None:  # there are no inputs, such as an empty validation split
            np.save(path, np.zeros(0, np.float16))
        else:
            rows.flush()

    key = (CACHE_VERSION, str(train.precision), inputs.versions(), network.state_dict().values())
    return np.load(cached(folder, key, compute, name) / f"{name}.npy", mmap_mode="r")


def conditioning_weights(sd: Any) -> Iterator[Tensor]:
    """Weights of Stable Diffusion on which the trained weights depend: U-Net (without adapters), text encoder."""
    yield from (weight for name, weight in sd.unet.named_parameters() if ".lora_" not in name)
    yield from sd.text_encoder.parameters()


def check_same_weights(checkpoint: dict[str, Any], current: str, keys: str) -> None:
    """Refuse to resume a run with other frozen networks than it began with.

    Args:
        checkpoint: its "frozen" is the `content_hash` of their weights, or all 64 digits of the hash in older files.
        keys: the config keys that name the networks, with their values.

    Raises:
        UserError: the hashes differ.
    """
    if not checkpoint.get("frozen", current).startswith(current):
        raise UserError(f"{keys}: these are not the weights that the run began with: name those, or start a new run "
                        "with another exp_name=...")  # fmt: skip
