"""A few training steps of the latent diffusion model, ours or the seed's way, as one process: its memory is its own.

training_step.py ours|seed CONFIG writes one JSON line: the loss of the first step, processor seconds of every step (on
a GPU wall seconds) and of its update by AdamW, peak memory; training_step.py cache CONFIG fills the cache that ours
reads. A step is all from reading the files to the update. Both sides take the same items in the same order, the same
initial weights, random numbers, attention and type. Ours builds the recipe's own AdamW, which is fused; the seed's is
torch's default. The seed's way (Amphion's recipe) reads mels and captions, runs T5 (with
its mask) and the autoencoder without gradients inside the step, and trains the U-Net with gradient checkpointing.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from sonolume.config.load import load_config
from sonolume.config.tta.audioldm import Config
from sonolume.models.data_order import EpochOrder
from sonolume.models.training import StepBatches, optimizer, step_generator
from sonolume.models.tta.audioldm import components
from sonolume.models.tta.audioldm.data import training_data
from sonolume.models.tta.audioldm.task import Task, load_frozen
from sonolume.models.tta.autoencoderkl import model as autoencoder
from sonolume.models.tta.features import mel_path, read_rows

Step = Callable[[Any, int], Tensor]  # (batch, step) -> loss


def fill(unet: nn.Module) -> None:
    """The same weights on both sides, none of them zero: the loss then depends on latents and text from the start."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=random)
            else:
                weight.fill_(float("norm" in name and name.endswith("weight")))


def batches(dataset: Dataset[Any], size: int, collate: Callable[[list[Any]], Any], config: Config) -> Iterator[Any]:
    order = EpochOrder(size, config.train.random_seed)
    sampler = StepBatches(order, config.train.batch_size, config.train.max_steps)
    return iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))


def ours(config: Config) -> tuple[nn.Module, Step, Iterator[Any]]:
    """The recipe's own dataset, collator and training step."""
    frozen = load_frozen(config)
    data, task = training_data(config, frozen), Task(config, frozen)
    task.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]  # all that a step uses
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task.unet, task.training_step, batches(data.train, len(data.train), data.collate, config)  # type: ignore[arg-type]


class MelsAndTexts(Dataset[tuple[Tensor, str]]):
    """(mel (1, M, T), caption), read from the file each time."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows = read_rows(config.preprocess, config.dataset, "train", captions=True)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, str]:
        row = self.rows[item[1]]
        mel = np.load(mel_path(self.config.preprocess, row))[:, : self.config.preprocess.frames]
        return torch.from_numpy(mel)[None], row.captions[0]


class SeedStep:
    """The seed's step."""

    def __init__(self, config: Config, text: components.TextEncoder, device: torch.device) -> None:
        noise = config.model.noise_scheduler
        self.vae = autoencoder.load(config.model.autoencoder_path).to(device)  # type: ignore[arg-type]
        self.text = text.model.to(device)  # type: ignore[arg-type]
        self.unet = components.build_unet(config.model.audioldm)
        self.unet.enable_gradient_checkpointing()
        self.unet.train()
        self.unet.set_attn_processor(AttnProcessor2_0() if device.type == "cuda" else AttnProcessor())  # as ours
        schedule: Any = str(noise.beta_schedule)
        self.scheduler = DDPMScheduler(
            noise.num_train_timesteps, noise.beta_start, noise.beta_end, schedule, clip_sample=False
        )
        self.seed = config.train.random_seed

    def __call__(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> Tensor:
        mels, tokens, mask = batch                                                            # (B, 1, M, T), (B, L)
        with torch.no_grad():
            posterior = self.vae.encode(mels).latent_dist
            states = self.text(tokens, attention_mask=mask).last_hidden_state                 # (B, L, D)
        random = step_generator(self.seed, step)
        sample, noise = (torch.randn(posterior.mean.shape, generator=random).to(mels) for _ in range(2))
        times = torch.rand(len(mels), generator=random)
        timesteps = (times * self.scheduler.config.num_train_timesteps).long().to(mels.device)
        latents = posterior.mean.float() + posterior.std.float() * sample                     # (B, z, h, w)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        return F.mse_loss(self.unet(noisy, timesteps, states).sample.float(), noise)


def seed(config: Config, device: torch.device) -> tuple[nn.Module, Step, Iterator[Any]]:
    """The seed's dataset, collator and training step."""
    text = components.TextEncoder(config.model.text_encoder)
    step = SeedStep(config, text, device)

    def collate(items: list[tuple[Tensor, str]]) -> tuple[Tensor, Tensor, Tensor]:
        tokens = text.tokenizer([caption for _, caption in items], padding=True, return_tensors="pt")
        return torch.stack([mel for mel, _ in items]), tokens.input_ids, tokens.attention_mask

    data = MelsAndTexts(config)
    return step.unet, step, batches(data, len(data.rows), collate, config)


def train(
    adam: torch.optim.Optimizer, step: Step, items: Iterator[Any], config: Config, device: torch.device
) -> dict[str, Any]:
    """Loss of the first step, seconds of all and of their updates, peak memory in GiB."""
    cuda = device.type == "cuda"
    wait = torch.cuda.synchronize if cuda else lambda: None
    clock = time.perf_counter if cuda else time.process_time
    losses, seconds, updates = [], [], []
    for number in range(config.train.max_steps):
        start = clock()
        batch = move_data_to_device(next(items), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16-mixed"):
            loss = step(batch, number)
        loss.backward()
        losses.append(loss.item())
        wait()
        before = clock()
        adam.step()
        adam.zero_grad()
        wait()
        updates.append(clock() - before)
        seconds.append(clock() - start)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if cuda else process
    return {"loss": losses[0], "seconds": seconds, "updates": updates, "memory": peak / 2**30}


def main(side: str, path: str) -> None:
    torch.set_num_threads(1)
    config = load_config(Path(path))
    if side == "cache":
        training_data(config, load_frozen(config))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unet, step, items = ours(config) if side == "ours" else seed(config, device)
    fill(unet)
    unet.to(device)
    adam = config.train.adam
    if side == "ours":
        adamw = optimizer(unet.parameters(), config.train)[0]
    else:
        adamw = torch.optim.AdamW(unet.parameters(), lr=adam.lr, weight_decay=adam.weight_decay)
    print(json.dumps(train(adamw, step, items, config, device)))


if __name__ == "__main__":
    main(*sys.argv[1:])
