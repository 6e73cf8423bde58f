"""Train the U-Net of the miniature Stable Diffusion on cached latents and text states.

B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.mini.stable_diffusion import Config, UNetConfig
from sonolume.config.tta.audioldm import NoiseSchedulerConfig
from sonolume.models import previews, runtime
from sonolume.models.latent_diffusion import DiffusionObjective, diffusion_loss, draw_target
from sonolume.models.mini.clip_text import save_tokenizer
from sonolume.models.mini.stable_diffusion.data import load_frozen as load_frozen
from sonolume.models.training import Draw, Frozen, RecipeTask, training_draws, validation_draws
from sonolume.modules.unet import zero_init
from sonolume.preprocessors.miniworld.pictures import SIZE

NUM_STEPS, GUIDANCE_SCALE = 20, 4.0  # defaults of previews and evaluation
MEASURED = 2048  # pictures from which the latents' standard deviation is estimated
PREVIEWS = 8  # pictures in TensorBoard


class Task(RecipeTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        self.frozen, model = frozen, config.model
        self.unet = build_unet(model.unet, frozen["vae"], frozen["text_encoder"].model.config.hidden_size)
        zero_init(self.unet)
        if config.train.accelerator == "cpu" or not torch.cuda.is_available():
            self.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        self.scheduler = make_scheduler(model.noise_scheduler)
        self.objective = DiffusionObjective.from_config(model.noise_scheduler)

    def on_fit_start(self) -> None:
        measure_latents(self.frozen["vae"], self.trainer.datamodule.data.train.moments)  # type: ignore[attr-defined]

    def _loss(self, batch: list[Tensor], draws: Callable[[Draw], Tensor]) -> Tensor:
        moments, states = batch                                                 # (B, 2z, h, w), (B, L, D)
        target = draw_target(moments, self.frozen["vae"], self.objective, draws)
        prediction = self.unet(target.noisy, target.timesteps, states).sample   # (B, z, h, w)
        return diffusion_loss(prediction, target)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        loss = self._loss(batch, training_draws(self, len(batch[0]), batch_index))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        loss = self._loss(batch, validation_draws(self, batch_index))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch[0]), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if not previews.is_due(self):
            return
        texts = [texts[0] for texts in self.trainer.datamodule.data.valid.texts[:PREVIEWS]]  # type: ignore[attr-defined]
        pipe, generators = self.pipeline(), runtime.generators(range(len(texts)))
        pipe.set_progress_bar_config(disable=True)
        how: dict[str, Any] = {"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE_SCALE, "output_type": "pt"}
        made: Any = pipe(texts, generator=generators, **how)
        previews.log_pictures(self, "preview", [made.images])
        self.logger.experiment.add_text("preview", "\n\n".join(texts), self.global_step)  # type: ignore[union-attr]

    def pipeline(self) -> StableDiffusionPipeline:
        """Assemble a pipeline from the networks in their current state."""
        text_encoder = self.frozen["text_encoder"]
        return StableDiffusionPipeline(
            vae=self.frozen["vae"].to(self.device),
            text_encoder=text_encoder.model.to(self.device),
            tokenizer=text_encoder.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,  # type: ignore[arg-type]  # named by an Enum
            safety_checker=None,  # type: ignore[arg-type]  # there is nothing unsafe to draw
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )

    def export(self, folder: Path) -> None:
        """Write diffusers' `StableDiffusionPipeline` folder."""
        self.pipeline().save_pretrained(folder)
        save_tokenizer(self.frozen["text_encoder"].tokenizer, folder / "tokenizer")


def build_unet(config: UNetConfig, vae: AutoencoderKL, width: int) -> UNet2DConditionModel:
    """Build a U-Net with fresh weights for the latents of pictures and text states of `width`."""
    channels, attends = vae.config.latent_channels, config.cross_attention
    return UNet2DConditionModel(
        sample_size=SIZE // 2 ** (len(vae.config.block_out_channels) - 1),
        in_channels=channels, out_channels=channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in reversed(attends)),
        block_out_channels=tuple(config.block_out_channels), layers_per_block=config.layers_per_block,
        cross_attention_dim=width, norm_num_groups=config.norm_num_groups,
        attention_head_dim=config.num_heads,  # diffusers' name for the number of heads
    )  # fmt: skip


def make_scheduler(config: NoiseSchedulerConfig) -> DDIMScheduler:
    """Build the exported sampler; other schedulers can be made from its config."""
    return DDIMScheduler(
        config.num_train_timesteps, config.beta_start, config.beta_end, str(config.beta_schedule),
        prediction_type=str(config.prediction_type), clip_sample=config.clip_sample,  # type: ignore[arg-type]
        timestep_spacing="trailing",  # the first step starts from pure noise (Lin et al. 2024)
    )  # fmt: skip


def measure_latents(vae: AutoencoderKL, moments: np.ndarray) -> None:
    """Set the autoencoder's `scaling_factor` so that scaled latents have unit variance."""
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), MEASURED)).astype(int)
    mean, logvar = np.split(np.asarray(moments[chosen], np.float32), 2, axis=1)
    vae.register_to_config(scaling_factor=round(float(1 / np.sqrt(mean.var() + np.exp(logvar).mean())), 4))
