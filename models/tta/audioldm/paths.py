"""Sampling paths of a teacher: what its guided sampler makes of captions, from noise to clean latents.

A path belongs to a caption and a noise; all are computed once and kept on disk. They are the data of a distillation,
which needs no recordings. N paths, K points, z latent channels, h x w latent size, L text tokens, D text width.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sonolume.config.tta.audioldm import Config, DistillConfig, read_texts
from sonolume.models.training import Frozen, TrainingData
from sonolume.models.tta.audioldm.data import pad_states
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
from sonolume.modules import sampling
from sonolume.utils import paths
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError

CACHE_VERSION = 1  # bump to invalidate cached paths
BATCH_SIZE = 32  # captions that are sampled at once
FEWEST_CAPTIONS = 8  # besides those of validation


Tensors = dict[str, Tensor]


class PathBatch(NamedTuple):
    x: Tensor  # (B, z, h, w) points of paths; the noisier, the nearer `times` is to 1
    times: Tensor  # (B,) noise times in 0..1
    ends: Tensor  # (B, z, h, w) clean latents at the ends of the same paths
    renoised: Tensor  # (B,) 1 for the points that are to be replaced by the end with fresh noise
    states: Tensor  # (B, L, D) text states
    mask: Tensor  # (B, L) 1 for text


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


Item = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # x, time, end, renoised, states (L, D)


class PathDataset(Dataset[Item]):
    """Points of the paths with the numbers `rows`; which point is drawn from (seed, epoch, path)."""

    def __init__(self, folder: Path, rows: range, config: Config) -> None:
        self.points, self.ends = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("points", "ends"))
        self.times = np.load(folder / "times.npy")
        self.states, self.state_ends = np.load(folder / "states.npy", mmap_mode="r"), np.load(folder / "state_ends.npy")
        self.rows, self.seed, self.distill = rows, config.train.random_seed, config.model.distill

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> Item:
        epoch, index = item
        random, row = np.random.default_rng([self.seed, epoch, index]), self.rows[index]
        is_start = random.uniform() < self.distill.start_share
        point = 0 if is_start else int(random.integers(len(self.times)))
        renoised = point > 0 and random.uniform() < self.distill.renoised_share
        first = self.state_ends[row - 1] if row else 0
        states = torch.from_numpy(self.states[first : self.state_ends[row]].astype(np.float32))  # (L, D)
        x, end = (torch.from_numpy(one.astype(np.float32)) for one in (self.points[row, point], self.ends[row]))
        return x, torch.tensor(self.times[point]), end, torch.tensor(renoised), states


def collate(items: list[Item]) -> PathBatch:
    """Pad to the longest caption of the batch."""
    x, times, ends, renoised, states = zip(*items, strict=True)
    padded, mask = pad_states(states, [len(one) for one in states])
    return PathBatch(torch.stack(x), torch.stack(times), torch.stack(ends), torch.stack(renoised), padded, mask)
