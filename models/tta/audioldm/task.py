"""Training of the latent diffusion model on cached latents and text states.

B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.tta.audioldm import Attention, Config, Method
from sonolume.models import lora
from sonolume.models.training import Draw, Frozen, item_draws, optimizer, step_draws
from sonolume.models.tta.audioldm import components, finetune
from sonolume.models.tta.audioldm.data import Batch
from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline, normalise
from sonolume.models.tta.autoencoderkl import model as autoencoder
from sonolume.modules.diffusion import alphas_cumprod, diffusion_loss, draw_times, make_target
from sonolume.modules.mel import MelSettings
from sonolume.modules.schedulers import preset
from sonolume.modules.unet import with_positions, zero_init
from sonolume.utils.errors import UserError

SCALE_BATCHES = 64  # clips on which the latents' mean and deviation are measured
PREVIEW = ("preview", 4)  # TensorBoard tag, number of captions


class Task(pl.LightningModule):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.frozen = Frozen(self._frozen())
        self._set_unet()
        noise = config.model.noise_scheduler
        self.schedule = alphas_cumprod(
            str(noise.beta_schedule), noise.beta_start, noise.beta_end, noise.num_train_timesteps
        )

    def _frozen(self) -> dict[str, Any]:
        model = self.config.model
        if model.pretrained:
            base = finetune.load(self.config)
            return {"base": base, "vae": base.vae, "vocoder": base.vocoder}
        return {
            "vae": autoencoder.load(model.autoencoder_path),
            "vocoder": components.load_vocoder(model.vocoder, MelSettings.of(self.config.preprocess)),
        }

    def _set_unet(self) -> None:
        """The network, fresh or pretrained; beside LoRA adapters it is frozen, so it too stays out of state_dict."""
        model = self.config.model
        torch.manual_seed(self.config.train.random_seed)
        if model.pretrained:
            unet = self.frozen["base"].unet.train()
        else:
            unet = components.build_unet(model.audioldm)
            zero_init(unet)
        if self._plain_attention():
            unet.set_attn_processor(AttnProcessor())
        if model.method is Method.lora:
            self.__dict__["unet"] = unet
            self.adapters = lora.add(unet, model.lora)
            self.export_folder = "lora"
        else:
            self.unet = unet

    def _plain_attention(self) -> bool:
        """The fused kernel's backward pass is slower than plain attention on a CPU."""
        choice = self.config.model.attention
        on_cpu = self.config.train.accelerator == "cpu" or not torch.cuda.is_available()
        return choice is Attention.plain or (choice is Attention.auto and on_cpu)

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def on_fit_start(self) -> None:
        if self.config.model.pretrained:  # its latents are measured, and a frozen network is moved by nobody else
            self.unet.to(self.device)  # type: ignore[arg-type]  # a decorator of diffusers hides its signature
            return
        measure_latents(self.frozen["vae"], self.trainer.datamodule.data.train.moments, self.config.model.latent_scale)  # type: ignore[attr-defined]

    def _loss(self, batch: Batch, draws: Callable[[Draw], Tensor]) -> Tensor:
        noise_config = self.config.model.noise_scheduler
        sampling = str(noise_config.timestep_sampling)
        mean, logvar = batch.moments.chunk(2, dim=1)                                         # (B, z, h, w)
        normal: Draw = lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)  # noqa: E731
        sample, noise = draws(normal).to(mean), draws(normal).to(mean)                       # (B, z, h, w)
        times = draws(lambda count, random: draw_times(count, sampling, random)).to(mean)    # (B,)
        latents = normalise(mean + (0.5 * logvar).exp() * sample, self.frozen["vae"])
        target = make_target(
            latents, noise, times, str(noise_config.prediction_type), self.schedule, noise_config.min_snr_gamma
        )
        x = with_positions(target.noisy, self.unet.config.in_channels)                       # (B, z + positions, h, w)
        mask = batch.mask if self.config.model.text_mask else None
        return diffusion_loss(self.unet(x, target.timesteps, batch.states, encoder_attention_mask=mask).sample, target)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        share = len(batch.mask), self.global_rank, self.trainer.world_size
        loss = self._loss(batch, step_draws(self.config.train.random_seed, batch_index, *share))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        items = self.trainer.datamodule.valid_batches[batch_index]  # type: ignore[attr-defined]
        loss = self._loss(batch, item_draws(items))  # the same noise at every validation
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.mask), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.is_global_zero and self.logger is not None and self.global_step:  # untrained: noise
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

    def generate(
        self, captions: list[str], seeds: list[int], num_steps: int, guidance_scale: float
    ) -> tuple[Tensor, int]:
        """One wave for each caption, (N, samples), from the noise of its own seed, and the rate in Hz.

        Args:
            num_steps, guidance_scale: 0 is the pipeline's own.
        """
        pipe = self.pipeline()
        pipe.set_progress_bar_config(disable=True)
        size = len(captions) if pipe.config.text_mask else 1  # unmasked, a text would hear the longer ones' padding
        waves = []
        for start in range(0, len(captions), size):
            output: Any = pipe(
                captions[start : start + size],
                num_inference_steps=num_steps or None,
                guidance_scale=guidance_scale or None,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[start : start + size]],
                output_type="pt",
            )
            waves.append(output.audios.float().cpu())
        return torch.cat(waves), pipe.mel_settings.sample_rate

    def pipeline(self) -> TextToAudioPipeline:
        """The model as it stands, ready to generate, with the sampler of the "balanced" preset."""
        config = self.config
        if config.model.pretrained:
            return self.frozen["base"].to(self.device)
        if "text" not in self.frozen:
            self.frozen["text"] = components.TextEncoder(config.model.text_encoder)
        noise = components.noise_settings(config.model.noise_scheduler)
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
            polish=config.model.polish,
        )

    def export(self, folder: Path) -> None:
        """A diffusers pipeline folder, or the LoRA file alone."""
        model = self.config.model
        if model.method is Method.lora:
            lora.save(self.unet, folder / lora.FILE, model.lora, finetune.short_name(model.pretrained))
        else:
            self.pipeline().save_pretrained(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.config.model.method is Method.lora:
            checkpoint["base"] = lora.fingerprint(self.unet)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse adapters that were trained beside other weights."""
        base = checkpoint.get("base")
        if base and base != lora.fingerprint(self.unet):
            raise UserError(
                f"model.pretrained {self.config.model.pretrained}: its weights are not those that this run began with: "
                "name that pipeline, or start anew with another exp_name=..."
            )


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
