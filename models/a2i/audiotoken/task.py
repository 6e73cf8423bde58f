"""Training of AudioToken's embedder, and optionally of LoRA adapters in the U-Net; all other networks are frozen.

B items, T tokens of BEATs, C channels of its features, D text width, n samples of a wave.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from sonolume.config.a2i.audiotoken import Config
from sonolume.config.base import LoraConfig
from sonolume.models import lora
from sonolume.models.a2i.audiotoken.encoder import AudioTokenEncoder, beats_features, load_beats, save
from sonolume.models.a2i.frozen import frozen_stable_diffusion
from sonolume.models.a2i.pipeline import LORA, AudioToImagePipeline
from sonolume.models.a2i.token_task import TokenTask
from sonolume.models.training import Frozen
from sonolume.modules.audiotoken import AudioTokenEmbedder
from sonolume.utils import paths
from sonolume.utils.errors import UserError


def load_frozen(config: Config) -> Frozen:
    """Load Stable Diffusion and BEATs, and check that peft is installed if the config needs it."""
    if config.model.lora and importlib.util.find_spec("peft") is None:
        raise UserError(f"model.lora true needs the package peft: {paths.pip_install('lora')}")
    sd = frozen_stable_diffusion(config.model.stable_diffusion)
    return Frozen(sd=sd, beats=load_beats(config.model.beats))


def lora_config(config: Config) -> LoraConfig:
    """Adapters as published: attention only, scale 1."""
    return LoraConfig(rank=config.model.lora_rank, alpha=float(config.model.lora_rank))


class Task(TokenTask):
    frozen_keys = ("stable_diffusion", "beats")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        model, sd = config.model, frozen["sd"]
        weight = model.lambda_c if model.cosine_loss else 0.0
        super().__init__(config, frozen, 1, model.lambda_a, model.lambda_b, weight, model.gradient_checkpointing)
        channels, width = 3 * frozen["beats"].config.encoder_embed_dim, sd.text_encoder.config.hidden_size
        self.embedder = AudioTokenEmbedder(channels, width, model.dropout)
        if model.lora:
            self.adapters = lora.add(sd.unet, lora_config(config))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.frozen["beats"].to(self.device)

    def tokens(self, audio: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Tokens (B, 1, D) of waves (B, n), or of features (B, T, C) if they were cached."""
        return self.embedder(self._features(audio), seeds)[:, None]

    @torch.no_grad()
    def _features(self, audio: Tensor) -> Tensor:
        """BEATs' features (B, T, C) of waves (B, n), or the given features if they were cached."""
        return audio if audio.ndim == 3 else beats_features(self.frozen["beats"], audio)

    def pipeline(self) -> AudioToImagePipeline:
        """The model in its present state, ready to draw."""
        config, beats = self.config, self.frozen["beats"]
        encoder = AudioTokenEncoder(beats, self.embedder, config.model.prompt, config.preprocess.input_length)
        pipe = AudioToImagePipeline(encoder, self.frozen["sd"].to(self.device))
        pipe.guidance_scale = config.model.guidance_scale
        return pipe

    def frozen_weights(self) -> list[Tensor]:
        """The U-Net without adapters, the text encoder and BEATs."""
        sd, beats = self.frozen["sd"], self.frozen["beats"]
        unet = [weight for name, weight in sd.unet.named_parameters() if ".lora_" not in name]
        return [*unet, *sd.text_encoder.parameters(), *beats.parameters()]

    def export(self, folder: Path) -> None:
        """Write the embedder, its adapters, and the names of the frozen networks."""
        model = self.config.model
        settings = {name: getattr(model, name) for name in ("stable_diffusion", "beats", "prompt", "guidance_scale")}
        save(folder, self.embedder, settings | {"window": self.config.preprocess.input_length})
        if model.lora:
            (folder / LORA).mkdir()
            unet, path = self.frozen["sd"].unet, folder / LORA / lora.FILE
            lora.save(unet, path, lora_config(self.config), model.stable_diffusion)
