"""Training of the latent diffusion model on cached latents and text states.

B items, z latent channels, h x w latent size, L text tokens, D text width.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.tta.audioldm import Attention, Config, DistillStage, Method
from sonolume.models import previews
from sonolume.models.latent_diffusion import DiffusionObjective, LatentTask, diffusion_loss, draw_target
from sonolume.models.training import Draw, Frozen, training_draws, validation_draws
from sonolume.models.tta.audioldm import components
from sonolume.models.tta.audioldm.batches import Batch, TokenBatch
from sonolume.modules import sampling
from sonolume.modules.mel import MelSettings
from sonolume.modules.unet import with_positions, zero_init

if TYPE_CHECKING:  # a training step does not run it
    from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline

MEASURED_CLIPS = 2048  # clips on which the latents' mean and deviation are measured


def load_frozen(config: Config) -> Frozen:
    """Load the frozen networks: "vae", "text" and "vocoder", and the whole "pipeline" to fine-tune."""
    if not config.model.pretrained:
        return components.load_frozen(config)
    if config.model.distill.stage is not DistillStage.none:
        from sonolume.models.tta.audioldm import distill_task

        return distill_task.load_frozen(config)
    from sonolume.models.tta.audioldm import finetune_task

    return finetune_task.load_frozen(config)


def build_task(config: Config, frozen: Frozen) -> pl.LightningModule:
    """Build the task of a config: training from scratch, or fine-tuning of `model.pretrained`."""
    if not config.model.pretrained:
        return Task(config, frozen)
    if config.model.distill.stage is not DistillStage.none:
        from sonolume.models.tta.audioldm import distill_task

        is_first = config.model.distill.stage is DistillStage.endpoint
        return (distill_task.EndpointTask if is_first else distill_task.MatchingTask)(config, frozen)
    from sonolume.models.tta.audioldm import finetune_task

    kind = finetune_task.LoraTask if config.model.method is Method.lora else finetune_task.FinetuneTask
    return kind(config, frozen)


class Task(LatentTask):
    """Training of the U-Net alone.

    Args:
        frozen: "vae", "text" (a `TextEncoder`) and "vocoder" (or None).
    """

    frozen_keys = ("autoencoder_path", "text_encoder")  # training does not depend on the vocoder

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        torch.manual_seed(config.train.random_seed)
        self.set_unet()
        choice, on_cpu = config.model.attention, config.train.accelerator == "cpu" or not torch.cuda.is_available()
        if choice is Attention.plain or (choice is Attention.auto and on_cpu):
            self.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        self.objective = DiffusionObjective.from_config(config.model.noise_scheduler)

    def set_unet(self) -> None:
        self.unet = components.build_unet(self.config.model.audioldm)
        zero_init(self.unet)

    def measure_latents(self, moments: np.ndarray) -> None:
        measure_latents(self.frozen["vae"], moments, self.config.model.latent_scale)

    def frozen_weights(self) -> list[Any]:
        return [self.frozen["vae"].state_dict().values(), self.frozen["text"].model.parameters()]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self.trainer.datamodule.data.train.has_states:  # type: ignore[attr-defined]
            self.frozen["text"].model.to(self.device)

    def training_step(self, batch: Batch | TokenBatch, batch_index: int) -> Tensor:
        loss = self.loss(batch, training_draws(self, len(batch.mask), batch_index))
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch | TokenBatch, batch_index: int) -> None:
        loss = self.loss(batch, validation_draws(self, batch_index))
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.mask), sync_dist=True)

    def loss(self, batch: Batch | TokenBatch, draws: Callable[[Draw], Tensor]) -> Tensor:
        """Diffusion loss of a batch, a scalar, with the random numbers of `draws`."""
        if not isinstance(batch, Batch):
            batch = batch.encode(self.frozen["text"])
        target = draw_target(batch.moments, self.frozen["vae"], self.objective, draws)
        x = with_positions(target.noisy, self.unet.config.in_channels)                       # (B, z + positions, h, w)
        mask = batch.mask if self.config.model.text_mask else None
        prediction = self.unet(x, target.timesteps, batch.states, encoder_attention_mask=mask).sample  # (B, z, h, w)
        return diffusion_loss(prediction, target)

    def on_validation_epoch_end(self) -> None:
        if previews.is_due(self):
            self._preview()

    def _preview(self) -> None:
        """Log sounds and spectrograms of the first validation captions."""
        captions = self.trainer.datamodule.data.valid.texts[: previews.COUNT]  # type: ignore[attr-defined]
        pipe = self.pipeline()
        mels: Any = pipe(captions, generator=sampling.generators(range(len(captions))), output_type="mel").audios
        previews.log_sounds(self, "preview", list(pipe.vocode(mels)), pipe.mel_settings.sample_rate, captions)
        previews.log_spectrograms(self, "preview", [mels])

    def generate(
        self, captions: list[str], seeds: list[int], num_steps: int, guidance_scale: float
    ) -> tuple[Tensor, int]:
        """Generate one wave per caption from noise of its seed, for evaluation while training.

        `num_steps` and `guidance_scale` of 0 are the pipeline's defaults. Returns waves (N, n) and their rate in Hz.
        """
        pipe = self.pipeline()
        size = len(captions) if pipe.config.text_mask else 1  # unmasked, texts attend to the padding of longer ones
        waves = []
        for start in range(0, len(captions), size):
            output: Any = pipe(
                captions[start : start + size], num_inference_steps=num_steps or None,
                guidance_scale=guidance_scale or None, output_type="pt",
                generator=sampling.generators(seeds[start : start + size]),
            )  # fmt: skip
            waves.append(output.audios.float().cpu())
        return torch.cat(waves), pipe.mel_settings.sample_rate

    def pipeline(self) -> "TextToAudioPipeline":
        """The model as it stands, ready to generate, with the sampler of the "balanced" preset."""
        from sonolume.models.tta.audioldm.pipeline import TextToAudioPipeline
        from sonolume.modules.sampling import preset

        config, text, vocoder = self.config, self.frozen["text"], self.frozen["vocoder"]
        noise = components.noise_settings(config.model.noise_scheduler)
        scheduler, steps = preset("balanced", self.objective.prediction_type, noise)
        pipe = TextToAudioPipeline(
            vae=self.frozen["vae"].to(self.device), text_encoder=text.model.to(self.device), tokenizer=text.tokenizer,
            unet=self.unet, scheduler=scheduler, vocoder=vocoder and vocoder.to(self.device),
            mel=asdict(MelSettings.of(config.preprocess)), frames=config.preprocess.frames, noise=noise,
            text_mask=config.model.text_mask, num_steps=steps, refine=config.model.refine,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def export(self, folder: Path) -> None:
        """Write a diffusers pipeline folder with the run's config."""
        from sonolume.models.tta.audioldm import run_config

        self.pipeline().save_pretrained(folder)
        run_config.save(self.config, folder)


def measure_latents(vae: Any, moments: np.ndarray, scale: str) -> None:
    """Store the normalisation of latents in the VAE's config: per channel, or one factor (1.0 for official weights)."""
    if scale not in ("auto", "0"):
        vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=float(scale))
        return
    chosen = np.linspace(0, len(moments) - 1, min(len(moments), MEASURED_CLIPS)).astype(int)
    mean, logvar = np.split(np.asarray(moments[chosen], np.float32), 2, axis=1)
    center = mean.mean(axis=(0, 2, 3))
    deviation = np.sqrt(mean.var(axis=(0, 2, 3)) + np.exp(logvar).mean(axis=(0, 2, 3)))
    vae.register_to_config(latents_mean=center.tolist(), latents_std=deviation.tolist())
