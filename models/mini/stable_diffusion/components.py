"""Frozen components of the miniature Stable Diffusion: the autoencoder and the text encoder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from sonolume.config.mini.stable_diffusion import Config
from sonolume.models.training import Frozen
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError

NUM_STEPS, GUIDANCE_SCALE = 20, 4.0  # defaults of previews and evaluation


def load_frozen(config: Config) -> Frozen:
    """Load the networks that are not trained: `vae`, and `text_encoder`, a `TextEncoder`.

    Raises:
        UserError: one is absent or another model; names the config key.
    """
    folder = _trained(config.model.vae, "model.vae", "AutoencoderKL", "picture_vae")
    vae = AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # strip local paths from exported configs
    return Frozen(vae=vae, text_encoder=TextEncoder(config.model.text_encoder))


class TextEncoder:
    """CLIP text encoder with its tokenizer, used as in StableDiffusionPipeline: full length and no mask."""

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
