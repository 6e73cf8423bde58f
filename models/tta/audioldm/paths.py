"""Sampling paths of a teacher: what its guided sampler makes of captions, from noise to clean latents.

A path belongs to a caption and a noise; all are computed once and kept on disk. They are the data of a distillation,
which needs no recordings. N paths, K points, z latent channels, h x w latent size, L text tokens, D text width.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config, DistillConfig, read_texts
from sonolume.models.distillation import Item, PathBatch, PathDataset
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.audioldm.batches import pad_states
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules import sampling
from sonolume.utils import paths
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError

CACHE_VERSION = 1  # bump to invalidate cached paths
BATCH_SIZE = 32  # captions that are sampled at once
FEWEST_CAPTIONS = 8  # besides those of validation


Tensors = dict[str, Tensor]


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Paths of `frozen["pipeline"]` for the captions of the config, in batches of `PathBatch`."""
    captions, pipe = read_captions(config.model.distill), frozen["pipeline"]
    folder = make_paths(pipe, captions, config)
    split = len(captions) - config.model.distill.valid_paths
    train, valid = (PathDataset(folder, rows, config) for rows in (range(split), range(split, len(captions))))
    return TrainingData(train, valid, collate)


def read_captions(config: DistillConfig) -> list[str]:
    """The distinct captions of the text file, or of the miniature world.

    Raises:
        UserError: too few captions, or no such file.
    """
    if config.captions:
        found = list(dict.fromkeys(read_texts(paths.resolve(config.captions, "model.distill.captions"))))
        name = config.captions
    else:
        from sonolume.preprocessors.miniworld import world

        scenes = world.scenes("train", config.miniworld_captions, seed=0)
        found = [world.captions(scene, 1, "train")[0] for scene in scenes]
        name = "model.distill.miniworld_captions"
    least = FEWEST_CAPTIONS + config.valid_paths
    if len(found) < least:
        raise UserError(f"{name}: distinct captions found: {len(found)}; a distillation needs at least {least}, "
                        f"{config.valid_paths} of them for validation (model.distill.valid_paths)")  # fmt: skip
    return found


def make_paths(pipe: TextToAudioPipeline, captions: list[str], config: Config) -> Path:
    """Compute the paths of all captions, the noise of caption i from the seed i, or find them on disk."""
    distill = config.model.distill
    scale = distill.guidance_scale or pipe.config.guidance_scale
    weights = content_hash(pipe.unet.state_dict().values(), pipe.text_encoder.parameters())
    key = [CACHE_VERSION, weights, captions, distill.path_steps, scale, pipe.config.text_mask, pipe.config.frames]

    def make(folder: Path) -> None:
        _sample_paths(pipe, captions, distill.path_steps, scale, folder)
        _save_states(pipe, captions, folder)

    return cached(paths.resolve(config.log_dir) / "cache", key, make, "sampling paths")


@torch.no_grad()
def _sample_paths(pipe: TextToAudioPipeline, captions: list[str], steps: int, scale: float, folder: Path) -> None:
    """Write the inputs of the network at all steps of each path, with their times, and the ends, in float16."""
    pipe.use_preset("balanced")
    points: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    for start in tqdm(range(0, len(captions), BATCH_SIZE), desc="sampling paths of the teacher", unit="batch"):
        some, passed = captions[start : start + BATCH_SIZE], list[Tensor]()

        def keep(_: Any, step: int, t: Tensor, tensors: Tensors, passed: list[Tensor] = passed) -> Tensors:
            passed.append(tensors["latents"].float().cpu())
            return {}

        generators = sampling.generators(range(start, start + len(some)))
        noise = pipe.prepare_latents(len(some), pipe.config.frames // pipe.factor, generators, None)
        pipe(some, latents=noise, num_inference_steps=steps, guidance_scale=scale, output_type="latent",
             callback_on_step_end=keep)  # fmt: skip
        points.append(torch.stack([noise.float().cpu(), *passed[:-1]], dim=1).half().numpy())    # (b, K, z, h, w)
        ends.append(passed[-1].half().numpy())                                                  # (b, z, h, w)
    times = pipe.scheduler.timesteps.float().cpu() / pipe.scheduler.config.num_train_timesteps
    if len(times) != points[0].shape[1]:
        name = type(pipe.scheduler).__name__
        raise UserError(f"{name} has {len(times)} timesteps for {steps} steps: its paths cannot be learned")
    np.save(folder / "points.npy", np.concatenate(points))
    np.save(folder / "ends.npy", np.concatenate(ends))
    np.save(folder / "times.npy", times.numpy())


@torch.no_grad()
def _save_states(pipe: TextToAudioPipeline, captions: list[str], folder: Path) -> None:
    """Write the text states of all captions one after the other, float16, with the end of each."""
    found = [pipe.encode_text([caption])[0][0].half().cpu().numpy() for caption in captions]    # (L, D) each
    np.save(folder / "states.npy", np.concatenate(found))
    np.save(folder / "state_ends.npy", np.cumsum([len(one) for one in found]))


def collate(items: list[Item]) -> PathBatch:
    """Pad to the longest caption of the batch."""
    x, times, ends, renoised, states = zip(*items, strict=True)
    padded, mask = pad_states(states, [len(one) for one in states])
    return PathBatch(torch.stack(x), torch.stack(times), torch.stack(ends), torch.stack(renoised), padded, mask)
