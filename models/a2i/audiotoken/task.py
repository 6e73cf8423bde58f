"""Training of AudioToken's embedder (and adapters of the U-Net, if wanted) beside frozen networks.

B items, z latent channels, h x w latent size, T tokens of BEATs, C channels of its features, L text tokens of width D.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.a2i.audiotoken import Config
from sonolume.config.base import LoraConfig
from sonolume.models import lora
from sonolume.models.a2i.audiotoken.data import Batch, PairDataset, load_picture, load_stable_diffusion
from sonolume.models.a2i.audiotoken.encoder import LORA, AudioTokenEncoder, beats_features, load_beats, save
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.frozen_features import fingerprint
from sonolume.models.training import Draw, Frozen, item_draws, optimizer, step_draws
from sonolume.modules.audiotoken.embedder import AudioTokenEmbedder
from sonolume.modules.audiotoken.injection import inject, tokenise
from sonolume.modules.audiotoken.losses import token_losses
from sonolume.modules.diffusion import diffusion_loss, draw_times, make_target
from sonolume.modules.latents import normalise
from sonolume.modules.schedulers import objective_of
from sonolume.utils.errors import UserError

PREVIEW = ("preview", 4)  # TensorBoard tag, number of sounds
LARGEST_SEED = 2**62


class Task(pl.LightningModule):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        sd, beats = load_stable_diffusion(config), load_beats(config.model.beats)
        self.frozen = Frozen({"sd": sd, "beats": beats, "ids": tokenise(sd.tokenizer, [config.model.prompt])})
        self.objective = objective_of(sd.scheduler)
        self.schedule = torch.ones(1) if self.objective == "flow" else sd.scheduler.alphas_cumprod
        if self._on_cpu():
            sd.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower there
        torch.manual_seed(config.train.random_seed)
        channels, width = 3 * beats.config.encoder_embed_dim, sd.text_encoder.config.hidden_size
        self.embedder = AudioTokenEmbedder(channels, width, config.model.dropout)
        if config.model.lora:
            if importlib.util.find_spec("peft") is None:
                raise UserError('model.lora true needs peft: pip install -e ".[lora]"')
            self.adapters = lora.add(sd.unet, self._lora())
        if config.model.gradient_checkpointing:
            sd.unet.enable_gradient_checkpointing()

    def _on_cpu(self) -> bool:
        return self.config.train.accelerator == "cpu" or not torch.cuda.is_available()

    def _lora(self) -> LoraConfig:
        """As published: attention only, scale 1."""
        rank = self.config.model.lora_rank
        return LoraConfig(rank=rank, alpha=float(rank))

    def configure_optimizers(self) -> Any:
        adamw, rate = optimizer(self.parameters(), self.config.train)
        return [adamw], [{"scheduler": rate, "interval": "step"}]

    def on_fit_start(self) -> None:
        """Frozen networks are moved by nobody else. The VAE is for previews only; the sounds' may be cached."""
        sd = self.frozen["sd"]
        for network in (sd.unet, sd.text_encoder, self.frozen["beats"]):
            network.to(self.device)

    def _features(self, sound: Tensor) -> Tensor:
        """What BEATs says of the sound, (B, T, C), if the cache has not said it."""
        if sound.ndim == 3:
            return sound
        with torch.no_grad():
            return beats_features(self.frozen["beats"], sound)

    def _losses(self, batch: Batch, draws: Callable[[Draw], Tensor]) -> dict[str, Tensor]:
        sd, model = self.frozen["sd"], self.config.model
        mean, logvar = batch.moments.chunk(2, dim=1)                                         # (B, z, h, w)
        normal: Draw = lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)  # noqa: E731
        sample, noise = draws(normal).to(mean), draws(normal).to(mean)                       # (B, z, h, w)
        times = draws(lambda count, random: draw_times(count, "uniform", random)).to(mean)   # (B,)
        seeds = draws(lambda count, random: torch.randint(LARGEST_SEED, (count,), generator=random))
        latents = normalise(mean + (0.5 * logvar).exp() * sample, sd.vae)
        target = make_target(latents, noise, times, self.objective, self.schedule)
        token = self.embedder(self._features(batch.sound), seeds)                            # (B, D)
        ids = self.frozen["ids"].to(token.device).expand(len(token), -1)                     # (B, L)
        states = inject(sd.text_encoder, ids, token[:, None]).last_hidden_state              # (B, L, D)
        noise_loss = diffusion_loss(sd.unet(target.noisy, target.timesteps, states).sample, target)
        found = token_losses(token, batch.label, self._across)
        total = noise_loss + model.lambda_a * found.l1 + model.lambda_b * found.l2
        if model.cosine_loss:
            total = total + model.lambda_c * found.classification
        return {"loss": total, "noise": noise_loss, **found._asdict()}

    def _across(self, mean: Tensor) -> Tensor:
        """The mean over the processes, in training; each validates on every item."""
        return self.all_gather(mean).mean() if self.trainer.training and self.trainer.world_size > 1 else mean  # type: ignore[union-attr]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        share = len(batch.sound), self.global_rank, self.trainer.world_size
        losses = self._losses(batch, step_draws(self.config.train.random_seed, batch_index, *share))
        self.log_dict({f"train/{name}": loss for name, loss in losses.items() if name != "loss"}, sync_dist=True)
        self.log("train/loss", losses["loss"], prog_bar=True, sync_dist=True)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        items = self.trainer.datamodule.valid_batches[batch_index]  # type: ignore[attr-defined]
        losses = self._losses(batch, item_draws(items))  # the same noise at every validation
        size = len(batch.sound)
        named = {f"val/{name}": loss for name, loss in losses.items() if name != "loss"}
        self.log_dict(named, batch_size=size, sync_dist=True)
        self.log("val/loss", losses["loss"], prog_bar=True, batch_size=size, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.is_global_zero and self.logger is not None and self.global_step:  # untrained: anything
            self._preview()

    def _preview(self) -> None:
        """Pictures of a few validation sounds in TensorBoard below the real ones, from the same noise every time."""
        tag, count = PREVIEW
        data: PairDataset = self.trainer.datamodule.data.valid  # type: ignore[attr-defined]
        numbers = range(min(count, len(data)))
        if not numbers:
            return
        config = self.config.preprocess
        sounds = torch.stack([data.sound(number, int(data.first_window[number])) for number in numbers])
        real = [load_picture(data.pictures[number][0][1], config) / 2 + 0.5 for number in numbers]
        made = self.pictures(sounds.to(self.device), list(numbers))
        rows = torch.cat([torch.cat(real, dim=2), torch.cat(list(made), dim=2)], dim=1)      # (3, 2 H, count W)
        self.logger.experiment.add_image(tag, rows, self.global_step)  # type: ignore[union-attr]

    @torch.no_grad()
    def pictures(self, sounds: Tensor, seeds: list[int]) -> Tensor:
        """Features or waves -> pictures (B, 3, H, W) in 0..1, as the model stands, each from the noise of its seed."""
        pipe = self.pipeline()
        heard = self.embedder(self._features(sounds)).float()[:, None]                       # (B, 1, D)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        height, width = self.config.preprocess.height, self.config.preprocess.width
        images = pipe(heard, generator=generators, height=height, width=width).images
        return torch.from_numpy(np.stack([np.asarray(image, np.float32) / 255 for image in images])).permute(0, 3, 1, 2)

    def pipeline(self) -> AudioToImagePipeline:
        """The model as it stands, ready to see."""
        pipe = AudioToImagePipeline(self.encoder(), self.frozen["sd"].to(self.device))
        pipe.guidance_scale = self.config.model.guidance_scale
        return pipe

    def encoder(self) -> AudioTokenEncoder:
        config = self.config
        return AudioTokenEncoder(
            self.frozen["beats"], self.embedder, config.model.prompt, config.preprocess.input_length
        )

    def _belongs_to(self) -> str:
        """A hash of the frozen weights that decide what was learned."""
        if "hash" not in self.frozen:
            sd = self.frozen["sd"]
            weights = [weight for name, weight in sd.unet.named_parameters() if ".lora_" not in name]
            all_of_them = [*weights, *sd.text_encoder.parameters(), *self.frozen["beats"].parameters()]
            self.frozen["hash"] = fingerprint(all_of_them).hex()
        return self.frozen["hash"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["frozen"] = self._belongs_to()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on beside other frozen networks."""
        if checkpoint.get("frozen", self._belongs_to()) != self._belongs_to():
            model = self.config.model
            raise UserError(
                f"model.stable_diffusion {model.stable_diffusion} or model.beats {model.beats}: not the weights that "
                "this run began with: name those, or start anew with another exp_name=..."
            )

    def export(self, folder: Path) -> None:
        """The embedder, the adapters if there are any, and which frozen parts they belong to."""
        model = self.config.model
        settings = {
            "stable_diffusion": model.stable_diffusion,
            "beats": model.beats,
            "prompt": model.prompt,
            "window": self.config.preprocess.input_length,
            "guidance_scale": model.guidance_scale,
        }
        save(folder, self.embedder, settings)
        if model.lora:
            (folder / LORA).mkdir()
            lora.save(self.frozen["sd"].unet, folder / LORA / lora.FILE, self._lora(), model.stable_diffusion)
