"""Training of AudioToken's embedder, and optionally of LoRA adapters in the U-Net; all other networks are frozen.

B items, z latent channels, h x w latent size, T tokens of BEATs, C channels of its features, L text tokens of width D,
n samples of a wave.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.a2i.audiotoken import Config
from sonolume.config.base import LoraConfig
from sonolume.config.options import LARGEST_SEED
from sonolume.models import lora, previews
from sonolume.models.a2i.audiotoken.data import AudioTokenDataset, Batch
from sonolume.models.a2i.audiotoken.encoder import AudioTokenEncoder, beats_features, load_beats, save
from sonolume.models.a2i.frozen import frozen_stable_diffusion
from sonolume.models.a2i.pipeline import LORA, AudioToImagePipeline
from sonolume.models.a2i.preview_pictures import log_preview
from sonolume.models.latent_diffusion import DiffusionObjective, diffusion_loss, draw_target
from sonolume.models.training import Draw, Frozen, RecipeTask, training_draws, validation_draws
from sonolume.modules.audiotoken import AudioTokenEmbedder, inject, token_losses, tokenise
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


class Task(RecipeTask):
    frozen_keys = ("stable_diffusion", "beats")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        sd = frozen["sd"]
        self.ids = tokenise(sd.tokenizer, [config.model.prompt])                             # (1, L)
        self.objective = DiffusionObjective.of_scheduler(sd.scheduler)
        if config.train.accelerator == "cpu" or not torch.cuda.is_available():
            sd.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        torch.manual_seed(config.train.random_seed)
        channels, width = 3 * frozen["beats"].config.encoder_embed_dim, sd.text_encoder.config.hidden_size
        self.embedder = AudioTokenEmbedder(channels, width, config.model.dropout)
        if config.model.lora:
            self.adapters = lora.add(sd.unet, lora_config(config))
        if config.model.gradient_checkpointing:
            sd.unet.enable_gradient_checkpointing()

    def on_fit_start(self) -> None:
        """Move the frozen networks of the training step, as they are no submodules; the VAE is for previews only."""
        for network in (self.frozen["sd"].unet, self.frozen["sd"].text_encoder, self.frozen["beats"]):
            network.to(self.device)

    def losses(self, batch: Batch, draws: Callable[[Draw], Tensor]) -> dict[str, Tensor]:
        """All losses of a batch, scalars; "loss" is their weighted sum. `draws` as `training_draws` returns it."""
        sd, model = self.frozen["sd"], self.config.model
        target = draw_target(batch.moments, sd.vae, self.objective, draws)
        seeds = draws(lambda count, random: torch.randint(LARGEST_SEED, (count,), generator=random))
        token = self.embedder(self._features(batch.audio), seeds)                            # (B, D)
        ids = self.ids.to(token.device).expand(len(token), -1)                               # (B, L)
        states = inject(sd.text_encoder, ids, token[:, None]).last_hidden_state              # (B, L, D)
        prediction = sd.unet(target.noisy, target.timesteps, states).sample                  # (B, z, h, w)
        noise_loss = diffusion_loss(prediction, target)
        terms = token_losses(token, batch.label, self._mean_over_processes)
        total = noise_loss + model.lambda_a * terms.l1 + model.lambda_b * terms.l2
        if model.cosine_loss:
            total = total + model.lambda_c * terms.classification
        return {"loss": total, "noise": noise_loss, **terms._asdict()}

    @torch.no_grad()
    def _features(self, audio: Tensor) -> Tensor:
        """BEATs' features (B, T, C) of waves (B, n), or the given features if they were cached."""
        return audio if audio.ndim == 3 else beats_features(self.frozen["beats"], audio)

    def _mean_over_processes(self, mean: Tensor) -> Tensor:
        """Average over the processes in training; in validation, every process has all items."""
        return self.all_gather(mean).mean() if self.trainer.training and self.trainer.world_size > 1 else mean  # type: ignore[union-attr]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        losses = self.losses(batch, training_draws(self, len(batch.audio), batch_index))
        self.log_losses("train", losses, len(batch.audio))
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self.log_losses("val", self.losses(batch, validation_draws(self, batch_index)), len(batch.audio))

    @torch.no_grad()
    def on_validation_epoch_end(self) -> None:
        """Pictures of a few validation sounds in TensorBoard, below the real ones."""
        if not previews.is_due(self):
            return
        data: AudioTokenDataset = self.trainer.datamodule.data.valid  # type: ignore[attr-defined]
        clips = range(min(previews.COUNT, len(data)))
        if not clips:
            return
        audio = torch.stack([data.audio(int(data.first_window[clip])) for clip in clips])    # (B, T, C) or (B, n)
        real = [data.images[int(data.first_image[clip])] / 2 + 0.5 for clip in clips]         # (3, H, W) each
        audio_tokens = self.embedder(self._features(audio.to(self.device))).float()[:, None]  # (B, 1, D)
        log_preview(self, audio_tokens, real, self.config.preprocess.height, self.config.preprocess.width)

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
