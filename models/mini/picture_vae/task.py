"""Training of the picture autoencoder: error of pixels and of their differences, and a little KL.

x, recon: (B, 3, H, W) in -1..1.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sonolume.config.mini.picture_vae import Config, ModelConfig
from sonolume.models.training import optimizer, step_draws
from sonolume.preprocessors.miniworld.pictures import SIZE

EDGES = 0.5  # weight of the error of neighbouring pixels' differences: sharp outlines


def build(config: ModelConfig) -> AutoencoderKL:
    """diffusers' AutoencoderKL with fresh weights; its scaling factor is measured by mini/stable_diffusion."""
    levels = len(config.block_out_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
        block_out_channels=tuple(config.block_out_channels),  # type: ignore[arg-type]
        layers_per_block=config.layers_per_block,
        latent_channels=config.latent_channels,
        norm_num_groups=config.norm_num_groups,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def edge_error(x: Tensor, recon: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, along both sides."""
    errors = [(x.diff(dim=side) - recon.diff(dim=side)).abs().mean() for side in (2, 3)]
    return errors[0] + errors[1]


class Task(pl.LightningModule):
    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(config.train.random_seed)
        self.config = config
        self.vae = build(config.model)

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def training_step(self, x: Tensor, batch_index: int) -> Tensor:
        posterior = self.vae.encode(x).latent_dist
        mean = posterior.mean                                                 # (B, z, h, w)
        share = len(x), self.global_rank, self.trainer.world_size
        draws = step_draws(self.config.train.random_seed, batch_index, *share)
        noise = draws(lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)).to(mean)
        recon = self.vae.decode(mean + posterior.std * noise).sample.float()  # (B, 3, H, W)
        error, kl = (x - recon).abs().mean(), posterior.kl().float().mean()
        self.log("train/l1", error, prog_bar=True, sync_dist=True)
        self.log("train/kl", kl, sync_dist=True)
        square = (x - recon).square().mean()                                  # far off: strong colours, learnt late
        return error + square + EDGES * edge_error(x, recon) + self.config.model.kl_weight * kl

    def validation_step(self, x: Tensor, batch_index: int) -> None:
        recon = self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample.float()
        self.log("val/loss", (x - recon).abs().mean(), prog_bar=True, batch_size=len(x), sync_dist=True)
        if batch_index == 0:
            rows = [torch.cat(list(pictures[:8]), -1) for pictures in (x, recon)]
            image = (torch.cat(rows, -2) / 2 + 0.5).clamp(0, 1)
            self.logger.experiment.add_image("val/real_above_reconstruction", image, self.global_step)  # type: ignore[union-attr]

    def export(self, folder: Path) -> None:
        """diffusers' `AutoencoderKL` folder."""
        self.vae.save_pretrained(folder)
