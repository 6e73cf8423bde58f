"""mini/turbo: distill the tiny Stable Diffusion into a LoRA for few steps, its preset "turbo".

The teacher draws pictures of captions and prompts with guidance; the student learns to reach the ends of these sampling
paths from any of their points, as `models/distillation.py` says. N captions, K points of a path, z latent channels,
h x w latent size, L text tokens, D text width.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sonolume.config.mini.turbo import Config
from sonolume.models import distillation, lora
from sonolume.models.a2i.loading import load_stable_diffusion
from sonolume.models.distillation import Item, PathBatch, PathDataset
from sonolume.models.mini.clip_text import make_text
from sonolume.models.training import Frozen, TrainingData
from sonolume.modules import sampling
from sonolume.preprocessors.miniworld import world
from sonolume.utils import local_paths, paths
from sonolume.utils.cache import cached, content_hash
from sonolume.utils.errors import UserError

CACHE_VERSION = 1  # bump to invalidate cached paths
BATCH_SIZE = 32  # captions that are sampled at once
Tensors = dict[str, Tensor]
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")


def load_frozen(config: Config) -> Frozen:
    """Load the teacher, "pipeline".

    Raises:
        UserError: it is absent or another kind of model, or peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"the adapters need the package peft: {paths.pip_install('lora')}")
    source = paths.locate(config.model.pretrained, "model.pretrained")
    pipe: Any = load_stable_diffusion(source, "model.pretrained", torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.requires_grad_(False).eval()
    return Frozen(pipeline=pipe)


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Paths of the teacher in batches of `PathBatch`; the last ones are for validation."""
    distill = config.model.distill
    count = distill.miniworld_captions + distill.valid_paths
    scenes = world.scenes("train", count, seed=0)
    folder = make_paths(frozen["pipeline"], [make_text(scene, 0, held_out=False) for scene in scenes], config)
    train, valid = range(distill.miniworld_captions), range(distill.miniworld_captions, count)
    return TrainingData(PathDataset(folder, train, config), PathDataset(folder, valid, config), collate)


def make_paths(pipe: Any, texts: list[str], config: Config) -> Path:
    """Compute the paths of all texts, the noise of text i from the seed i, or find them on disk."""
    distill = config.model.distill
    weights = content_hash(pipe.unet.state_dict().values(), pipe.text_encoder.parameters())
    key = [CACHE_VERSION, weights, texts, distill.path_steps, distill.guidance_scale]

    def make(folder: Path) -> None:
        states = encode_texts(pipe, ["", *texts])                                         # (1 + N, L, D)
        _sample_paths(pipe, states[1:], states[:1], config, folder)
        flat = states[1:].flatten(0, 1)                                                   # (N L, D)
        np.save(folder / "states.npy", flat.half().numpy())
        np.save(folder / "state_ends.npy", np.arange(1, len(states)) * states.shape[1])

    return cached(paths.resolve(config.cache_dir), key, make, "sampling paths")


@torch.no_grad()
def encode_texts(pipe: Any, texts: list[str]) -> Tensor:
    """Encode texts -> (N, L, D), padded as Stable Diffusion does."""
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    return torch.cat([pipe.text_encoder(batch)[0] for batch in ids.split(BATCH_SIZE)])


@torch.no_grad()
def _sample_paths(pipe: Any, states: Tensor, empty: Tensor, config: Config, folder: Path) -> None:
    """Write the inputs (N, K, z, h, w) of the U-Net at all steps, their times (K,), and the ends, in float16."""
    distill = config.model.distill
    noise = {name: pipe.scheduler.config[name] for name in NOISE} | {"clip_sample": False}
    pipe.scheduler, _ = sampling.preset("balanced", sampling.objective_of(pipe.scheduler), noise)
    points: list[Tensor] = []
    ends: list[Tensor] = []
    for start in tqdm(range(0, len(states), BATCH_SIZE), desc="sampling paths of the teacher", unit="batch"):
        some, passed = states[start : start + BATCH_SIZE], list[Tensor]()

        def keep(_: Any, step: int, t: Any, tensors: Tensors, passed: list[Tensor] = passed) -> Tensors:
            passed.append(tensors["latents"].clone())
            return {}

        shape = (1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
        generators = sampling.generators(range(start, start + len(some)))
        first = torch.cat([torch.randn(shape, generator=one) for one in generators])      # (b, z, h, w)
        pipe(prompt_embeds=some, negative_prompt_embeds=empty.expand_as(some), latents=first,
             num_inference_steps=distill.path_steps, guidance_scale=distill.guidance_scale, output_type="latent",
             callback_on_step_end=keep)  # fmt: skip
        points.append(torch.stack([first * pipe.scheduler.init_noise_sigma, *passed[:-1]], dim=1))  # (b, K, z, h, w)
        ends.append(passed[-1])
    times = pipe.scheduler.timesteps.float() / pipe.scheduler.config.num_train_timesteps
    np.save(folder / "points.npy", torch.cat(points).half().numpy())
    np.save(folder / "ends.npy", torch.cat(ends).half().numpy())
    np.save(folder / "times.npy", times.numpy())


def collate(items: list[Item]) -> PathBatch:
    """Batch items of equally long text states."""
    x, times, ends, renoised, states = map(torch.stack, zip(*items, strict=True))
    return PathBatch(x, times, ends, renoised, states, mask=None)


class Task(distillation.EndpointTask):
    def export(self, folder: Path) -> None:
        """Write the adapters, in float16, with the facts that the preset "turbo" needs in the header of the file."""
        distill = self.config.model.distill
        facts = {"steps": str(distill.steps), "guidance_scale": str(distill.guidance_scale)}
        base = local_paths.strip(self.config.model.pretrained)
        lora.save(self.unet, folder / lora.FILE, self.config.model.lora, base, torch.float16,
                  teacher=self._frozen_hash(), **facts)  # fmt: skip
