"""Training of the latent diffusion model on cached latents and text states.

B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.tta.audioldm import Attention, Config
from sonolume.models.training import optimizer, step_generator
from sonolume.models.tta.audioldm import parts
from sonolume.models.tta.audioldm.data import Batch
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline, normalise
from sonolume.models.tta.autoencoderkl import pipeline as autoencoder
from sonolume.modules.diffusion import alphas_cumprod, diffusion_loss, draw_times, make_target
from sonolume.modules.mel import MelSettings
from sonolume.modules.presets import preset
from sonolume.modules.unet import with_positions, zero_init

SCALE_BATCHES = 64  # clips on which the latents' mean and deviation are measured
PREVIEW = ("preview", 4)  # TensorBoard tag, number of captions


class Task(pl.LightningModule):
    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(config.train.random_seed)
        self.config = config
        self.unet = parts.build_unet(config.model.audioldm)
        zero_init(self.unet)
        if self._plain_attention():
            self.unet.set_attn_processor(AttnProcessor())
        noise = config.model.noise_scheduler
        self.schedule = alphas_cumprod(
            str(noise.beta_schedule), noise.beta_start, noise.beta_end, noise.num_train_timesteps
        )
        self.frozen: dict[str, Any] = {  # outside state_dict
            "vae": autoencoder.load(config.model.autoencoder_path),
            "vocoder": parts.load_vocoder(config.model.vocoder, config.preprocess.n_mel),
        }

    def _plain_attention(self) -> bool:
        """The fused kernel's backward pass is slower than plain attention on a CPU."""
        choice = self.config.model.attention
        on_cpu = self.config.train.accelerator == "cpu" or not torch.cuda.is_available()
        return choice is Attention.plain or (choice is Attention.auto and on_cpu)

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.unet.parameters(), self.config.train)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def on_fit_start(self) -> None:
        measure_latents(self.frozen["vae"], self.trainer.datamodule.data.train.moments, self.config.model.latent_scale)  # type: ignore[attr-defined]

    def _loss(self, batch: Batch, random: torch.Generator) -> Tensor:
        noise_config = self.config.model.noise_scheduler
        mean, logvar = batch.moments.chunk(2, dim=1)                                         # (B, z, h, w)
        sample = torch.randn(mean.shape, generator=random).to(mean)
        noise = torch.randn(mean.shape, generator=random).to(mean)
        times = draw_times(len(mean), str(noise_config.timestep_sampling), random).to(mean)  # (B,)
        latents = normalise(mean + (0.5 * logvar).exp() * sample, self.frozen["vae"])
        target = make_target(
            latents, noise, times, str(noise_config.prediction_type), self.schedule, noise_config.min_snr_gamma
        )
        x = with_positions(target.noisy, self.unet.config.in_channels)                       # (B, z + positions, h, w)
        mask = batch.mask if self.config.model.text_mask else None
        return diffusion_loss(self.unet(x, target.timesteps, batch.states, encoder_attention_mask=mask).sample, target)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self._loss(batch, step_generator(self.config.train.random_seed, batch_index, self.global_rank))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss = self._loss(batch, step_generator(0, batch_index, self.global_rank))  # the same noise at every validation
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.mask), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.is_global_zero and self.logger is not None:
            self._preview()

    def _preview(self) -> None:
        """Sounds and spectrograms of a few validation captions in TensorBoard, from the same noise every time."""
        tag, count = PREVIEW
        captions = self.trainer.datamodule.data.valid.texts[:count]  # type: ignore[attr-defined]
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(number) for number in range(len(captions))]
        mels: Any = pipe(captions, generator=generators, output_type="mel").audios
        waves = pipe.vocode(mels).cpu().numpy()
        board, step = self.logger.experiment, self.global_step  # type: ignore[union-attr]
        low, high = float(np.log(1e-5)), 2.0
        for number, caption in enumerate(captions):
            board.add_text(f"{tag}/{number}", caption, step)
            board.add_audio(f"{tag}/{number}", waves[number], step, pipe.mel_settings.sample_rate)
            picture = ((mels[number].float().cpu().flip(0) - low) / (high - low)).clamp(0, 1)
            board.add_image(f"{tag}/{number}", picture[None], step)

    def pipeline(self) -> TextToAudioPipeline:
        """The model as it stands, ready to generate, with the sampler of the "balanced" preset."""
        config = self.config
        if "text" not in self.frozen:
            self.frozen["text"] = parts.TextEncoder(config.model.text_encoder, config.model.text_mask)
        noise = parts.noise_settings(config.model.noise_scheduler)
        scheduler, steps = preset("balanced", str(config.model.noise_scheduler.prediction_type), noise)
        return TextToAudioPipeline(
            vae=self.frozen["vae"].to(self.device),
            text_encoder=self.frozen["text"].model.to(self.device),  # type: ignore[arg-type]
            tokenizer=self.frozen["text"].tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            vocoder=self.frozen["vocoder"] and self.frozen["vocoder"].to(self.device),
            mel={name: getattr(config.preprocess, name) for name in MelSettings.__dataclass_fields__},
            frames=config.preprocess.frames,
            noise=noise,
            text_mask=config.model.text_mask,
            num_steps=steps,
        )

    def export(self, folder: Path) -> None:
        """A diffusers pipeline folder."""
        self.pipeline().save_pretrained(folder)


def measure_latents(vae: Any, moments: np.ndarray, scale: str) -> None:
    """Store how latents are normalised in the VAE's config: per channel, or one factor (1.0 for official weights)."""
    if scale not in ("auto", "0"):
        vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=float(scale))
        return
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), 32 * SCALE_BATCHES)).astype(int)
    mean, logvar = np.split(np.asarray(moments[chosen], np.float32), 2, axis=1)
    center = mean.mean(axis=(0, 2, 3))
    deviation = np.sqrt(mean.var(axis=(0, 2, 3)) + np.exp(logvar).mean(axis=(0, 2, 3)))
    vae.register_to_config(latents_mean=center.tolist(), latents_std=deviation.tolist())
