"""mini/picture_vae: the picture autoencoder, trained on pixel errors, edge errors and a little KL divergence.

x, recon: (B, 3, H, W) in -1..1.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from sonolume.config.mini.picture_vae import Config
from sonolume.models import previews
from sonolume.models.mini.scene_data import SceneDataset, draw
from sonolume.models.training import Frozen, RecipeTask, TrainingData, training_draws
from sonolume.preprocessors.miniworld.pictures import SIZE
from sonolume.preprocessors.miniworld.scene import Scene

EDGE_WEIGHT = 0.5  # of the error of neighbouring pixels' differences: sharp outlines
PREVIEWS = 8  # pictures in TensorBoard


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of pictures (B, 3, 64, 64) in -1..1."""
    return TrainingData.of(lambda split: SceneDataset(config.miniworld, split, _item))


def _item(scene: Scene, epoch: int) -> Tensor:
    return 2 * draw(scene) - 1


def edge_error(x: Tensor, recon: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels, summed over both directions."""
    rows, columns = ((x.diff(dim=side) - recon.diff(dim=side)).abs().mean() for side in (2, 3))
    return rows + columns


class Task(RecipeTask):
    """Train diffusers' AutoencoderKL; mini/stable_diffusion measures its scaling factor."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        model, levels = config.model, len(config.model.block_out_channels)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]
            up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
            block_out_channels=tuple(model.block_out_channels),  # type: ignore[arg-type]
            layers_per_block=model.layers_per_block, latent_channels=model.latent_channels,
            norm_num_groups=model.norm_num_groups, sample_size=SIZE, scaling_factor=1.0, mid_block_add_attention=False,
        )  # fmt: skip

    def training_step(self, x: Tensor, batch_index: int) -> Tensor:
        posterior = self.vae.encode(x).latent_dist
        mean, draws = posterior.mean, training_draws(self, len(x), batch_index)                        # (B, z, h, w)
        noise = draws(lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)).to(mean)
        recon = self.vae.decode(mean + posterior.std * noise).sample.float()                           # (B, 3, H, W)
        error, kl = (x - recon).abs().mean(), posterior.kl().float().mean()
        self.log("train/l1", error, prog_bar=True, sync_dist=True)
        self.log("train/kl", kl, sync_dist=True)
        square = (x - recon).square().mean()  # large errors: strong colours are learnt late
        return error + square + EDGE_WEIGHT * edge_error(x, recon) + self.config.model.kl_weight * kl

    def validation_step(self, x: Tensor, batch_index: int) -> None:
        recon = self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample.float()
        self.log("val/loss", (x - recon).abs().mean(), prog_bar=True, batch_size=len(x), sync_dist=True)
        if batch_index == 0 and previews.is_due(self):
            rows = [pictures[:PREVIEWS] / 2 + 0.5 for pictures in (x, recon)]
            previews.log_pictures(self, "val/real_above_reconstruction", rows)

    def export(self, folder: Path) -> None:
        """Write diffusers' `AutoencoderKL` folder."""
        self.vae.save_pretrained(folder)
