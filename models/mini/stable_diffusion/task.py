"""Training of the miniature Stable Diffusion's U-Net on cached latents and text states.

B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.mini.stable_diffusion import Config
from sonolume.config.tta.audioldm import NoiseSchedulerConfig
from sonolume.models.mini.clip_text import tokenizer
from sonolume.models.mini.stable_diffusion import components
from sonolume.models.training import Draw, Frozen, item_draws, optimizer, step_draws
from sonolume.modules.diffusion import alphas_cumprod, diffusion_loss, draw_times, make_target
from sonolume.modules.unet import zero_init
from sonolume.preprocessors.miniworld.pictures import SIZE

MEASURED = 2048  # pictures on which the latents' deviation is measured
PREVIEWS = 8  # pictures in TensorBoard


class Task(pl.LightningModule):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, model = config, config.model
        vae, text = components.load_vae(model.vae), components.TextEncoder(model.text_encoder)
        self.frozen = Frozen({"vae": vae, "text": text})
        torch.manual_seed(config.train.random_seed)
        size = SIZE // 2 ** (len(vae.config.block_out_channels) - 1)
        self.unet = components.build_unet(model.unet, vae.config.latent_channels, size, text.model.config.hidden_size)
        zero_init(self.unet)
        if config.train.accelerator == "cpu" or not torch.cuda.is_available():
            self.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        self.schedule = alphas_cumprod(**_schedule(model.noise_scheduler))

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def on_fit_start(self) -> None:
        measure_latents(self.frozen["vae"], self.trainer.datamodule.data.train.moments)  # type: ignore[attr-defined]

    def _loss(self, batch: list[Tensor], draws: Callable[[Draw], Tensor]) -> Tensor:
        noise_config, (moments, states) = self.config.model.noise_scheduler, batch
        sampling = str(noise_config.timestep_sampling)
        mean, logvar = moments.chunk(2, dim=1)                                             # (B, z, h, w)
        normal: Draw = lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)  # noqa: E731
        sample, noise = draws(normal).to(mean), draws(normal).to(mean)                     # (B, z, h, w)
        times = draws(lambda count, random: draw_times(count, sampling, random)).to(mean)  # (B,)
        latents = (mean + (0.5 * logvar).exp() * sample) * self.frozen["vae"].config.scaling_factor
        kind, gamma = str(noise_config.prediction_type), noise_config.min_snr_gamma
        target = make_target(latents, noise, times, kind, self.schedule, gamma)
        return diffusion_loss(self.unet(target.noisy, target.timesteps, states).sample, target)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        share = len(batch[0]), self.global_rank, self.trainer.world_size
        loss = self._loss(batch, step_draws(self.config.train.random_seed, batch_index, *share))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        items = self.trainer.datamodule.valid_batches[batch_index]  # type: ignore[attr-defined]
        loss = self._loss(batch, item_draws(items))  # the same noise at every validation
        self.log("val/loss", loss, prog_bar=True, batch_size=len(items), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.is_global_zero and self.logger is not None and self.global_step:  # untrained: noise
            self._preview()

    def _preview(self) -> None:
        """Pictures of a few validation texts in TensorBoard, from the same noise every time."""
        texts = [of_scene[0] for of_scene in self.trainer.datamodule.data.valid.texts[:PREVIEWS]]  # type: ignore[attr-defined]
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(number) for number in range(len(texts))]
        how = {"num_inference_steps": components.STEPS, "guidance_scale": components.GUIDANCE, "output_type": "np"}
        made: Any = pipe(texts, generator=generators, **how)
        board, step = self.logger.experiment, self.global_step  # type: ignore[union-attr]
        board.add_text("preview", "\n\n".join(texts), step)
        board.add_image("preview", np.concatenate(list(made.images), axis=1), step, dataformats="HWC")

    def pipeline(self) -> StableDiffusionPipeline:
        """The model as it stands, ready to generate."""
        text = self.frozen["text"]
        return StableDiffusionPipeline(
            vae=self.frozen["vae"].to(self.device),
            text_encoder=text.model.to(self.device),
            tokenizer=text.tokenizer,
            unet=self.unet,
            scheduler=scheduler(self.config.model.noise_scheduler),  # type: ignore[arg-type]  # named by an Enum
            safety_checker=None,  # type: ignore[arg-type]  # there is nothing unsafe to draw
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )

    def export(self, folder: Path) -> None:
        """diffusers' `StableDiffusionPipeline` folder."""
        self.pipeline().save_pretrained(folder)
        tokenizer.save(self.frozen["text"].tokenizer, folder / "tokenizer")


def _schedule(config: NoiseSchedulerConfig) -> dict[str, Any]:
    names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
    schedule, start, end, steps = (getattr(config, name) for name in names)
    return {"schedule": str(schedule), "start": start, "end": end, "steps": steps}


def scheduler(config: NoiseSchedulerConfig) -> DDIMScheduler:
    """The sampler that is shipped; its config also gives any other scheduler what it needs."""
    return DDIMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=str(config.beta_schedule),
        prediction_type=str(config.prediction_type),  # type: ignore[arg-type]
        clip_sample=config.clip_sample,
        set_alpha_to_one=True,
        timestep_spacing="trailing",  # the first step sees pure noise (Lin et al. 2024)
    )


def measure_latents(vae: AutoencoderKL, moments: np.ndarray) -> None:
    """Store in the autoencoder's config the factor that gives latents a deviation of one."""
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), MEASURED)).astype(int)
    mean, logvar = np.split(np.asarray(moments[chosen], np.float32), 2, axis=1)
    vae.register_to_config(scaling_factor=round(float(1 / np.sqrt(mean.var() + np.exp(logvar).mean())), 4))
