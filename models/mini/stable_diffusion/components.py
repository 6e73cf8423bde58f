"""Components of the miniature Stable Diffusion: the frozen autoencoder and text encoder, and a fresh U-Net."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sonolume.config.mini.stable_diffusion import Config, UNetConfig
from sonolume.models.training import Frozen
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError

NUM_STEPS, GUIDANCE_SCALE = 20, 4.0  # defaults of previews and evaluation


def load_frozen(config: Config) -> Frozen:
    """Load the networks that are not trained: `vae`, and `text_encoder`, a `TextEncoder`."""
    return Frozen(vae=load_vae(config.model.vae), text_encoder=TextEncoder(config.model.text_encoder))


def load_vae(source: str) -> AutoencoderKL:
    """Load the picture autoencoder.

    Raises:
        UserError: absent or another model; names the config key.
    """
    folder = _trained(source, "model.vae", "AutoencoderKL", "picture_vae")
    vae = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # strip local paths from exported configs
    return vae


class TextEncoder:
    """CLIP text encoder with its tokenizer, used as in StableDiffusionPipeline: full length and no mask.

    Raises:
        UserError: absent or another model; names the config key.
    """

    def __init__(self, source: str) -> None:
        folder = _trained(source, "model.text_encoder", "CLIPTextModel", "clip_text")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.model = CLIPTextModel.from_pretrained(folder).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Encode B texts into (B, L, D)."""
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return self.model(tokens.input_ids.to(self.model.device)).last_hidden_state


def _trained(source: str, key: str, kind: str, config: str) -> Path:
    folder = paths.resolve(source)
    if not folder.is_dir():
        raise UserError(f"{key} {source}: no such folder: train it first with egs/mini/{config}.json")
    checkpoint.check_folder(folder, kind)
    return folder


def build_unet(config: UNetConfig, latent_channels: int, size: int, width: int) -> UNet2DConditionModel:
    """Build a U-Net with fresh weights for latents (latent_channels, size, size) and text states of `width`."""
    attends = config.cross_attention
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(attends)),
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        cross_attention_dim=width,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads
        norm_num_groups=config.norm_num_groups,
    )
