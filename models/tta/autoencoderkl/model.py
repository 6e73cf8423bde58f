"""The mel autoencoder: diffusers' `AutoencoderKL`, saved with its mel settings."""

import torch
from diffusers import AutoencoderKL

from sonolume.config.tta.autoencoderkl import AutoencoderKLConfig
from sonolume.models.tta.features import check_mel, stored_mel
from sonolume.modules.mel import MelSettings
from sonolume.utils import checkpoint, paths


def build(config: AutoencoderKLConfig) -> AutoencoderKL:
    """Build the published architecture (no attention anywhere) with fresh weights."""
    levels, widths = len(config.ch_mult), tuple(config.ch * mult for mult in config.ch_mult)
    return AutoencoderKL(
        in_channels=config.in_channels, out_channels=config.out_ch,
        down_block_types=("DownEncoderBlock2D",) * levels,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * levels,  # type: ignore[arg-type]
        block_out_channels=widths,  # type: ignore[arg-type]
        layers_per_block=config.num_res_blocks, latent_channels=config.z_channels,
        norm_num_groups=config.norm_num_groups, scaling_factor=1.0, mid_block_add_attention=False,
    )  # fmt: skip


def load(
    source: str, key: str = "model.autoencoder_path", dtype: torch.dtype = torch.float32,
    settings: MelSettings | None = None,
) -> AutoencoderKL:  # fmt: skip
    """Load a trained autoencoder, frozen, from its folder, a pipeline folder or a hub id.

    Args:
        settings: mel settings that it must have been trained with, as far as they are known.

    Raises:
        UserError: missing, damaged, another model, or of other mels; names the config key.
    """
    remedy = ("train it first by egs/tta/autoencoderkl/run_train.sh (with --config egs/tta/autoencoderkl/tiny.json for "
              "the tiny.json of another recipe), or name another folder")  # fmt: skip
    vae: AutoencoderKL = checkpoint.load_network(AutoencoderKL, source, key, "vae", remedy, dtype)
    if settings:
        check_mel(stored_mel(paths.locate(source, key)), settings, f"{key} {source}: an autoencoder")
    return vae
