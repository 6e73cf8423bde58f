"""Training of the mel autoencoder: L1 + KL, and a PatchGAN with an adaptive weight from `disc_start` on.

x, recon: (B, 1, M, T).
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonolume.config.tta.autoencoderkl import Config
from sonolume.models import previews
from sonolume.models.gan import ManualOptimization
from sonolume.models.training import Frozen, optimizer, training_draws
from sonolume.models.tta.autoencoderkl import model
from sonolume.models.tta.features import save_with_mel
from sonolume.modules.autoencoder_loss import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    nll_loss,
)
from sonolume.modules.mel import MelSettings
from sonolume.modules.metrics import reconstruction


class Task(ManualOptimization):
    """Two optimizers on each batch once the discriminator has started."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        torch.manual_seed(config.train.random_seed)
        self.vae = model.build(config.model.autoencoderkl)
        channels, loss = config.model.autoencoderkl.in_channels, config.model.loss
        self.discriminator = PatchDiscriminator(channels, loss.disc_channels, loss.disc_num_layers)
        self.logvar = nn.Parameter(torch.tensor(loss.logvar_init), requires_grad=False)

    def configure_optimizers(self) -> Any:
        train, start = self.config.train, self.config.model.loss.disc_start
        vae, vae_rate = optimizer(self.vae.parameters(), train)
        discriminator, discriminator_rate = optimizer(self.discriminator.parameters(), train, start=start)
        return [vae, discriminator], [vae_rate, discriminator_rate]

    def training_step(self, x: Tensor, batch_index: int) -> None:
        loss, step = self.config.model.loss, self.optimizer_step_index
        with_gan = loss.disc_factor > 0 and step >= loss.disc_start
        train_vae = not loss.alternate or step % 2 == 0
        train_discriminator = with_gan and not (loss.alternate and train_vae)
        vae, discriminator = self.optimizers()  # type: ignore[misc]
        if train_vae or train_discriminator:
            recon, kl = self._reconstruct(x)
            if train_vae:
                with self.toggled_optimizer(vae):
                    self._generator_step(x, recon, kl, with_gan)
                self.clip_and_step(vae)
            if train_discriminator:
                hinge = discriminator_loss(self.discriminator(x), self.discriminator(recon.detach()))
                self.manual_backward(loss.disc_factor * hinge / self.config.train.accumulate)
                self.log("train/discriminator", hinge, sync_dist=True)
                self.clip_and_step(discriminator)
        self.end_batch()

    def _reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        mean = posterior.mean  # (B, z, h, w)
        draws = training_draws(self, len(x), self.steps_done)
        noise = draws(lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)).to(mean)
        recon = self.vae.decode(mean + posterior.std * noise).sample  # (B, 1, M, T)
        return recon.float(), posterior.kl().mean()

    def _generator_step(self, x: Tensor, recon: Tensor, kl: Tensor, with_gan: bool) -> None:
        loss = self.config.model.loss
        nll = nll_loss(x, recon, self.logvar)
        total = nll + loss.kl_weight * kl
        if with_gan:
            gan = generator_loss(self.discriminator(recon))
            last, bounds = self.vae.decoder.conv_out.weight, (loss.min_adapt_d_weight, loss.max_adapt_d_weight)
            weight = adaptive_weight(nll, gan, last, loss.disc_weight, *bounds)
            total = total + weight * loss.disc_factor * gan
            self.log_dict({"train/gan": gan, "train/gan_weight": weight}, sync_dist=True)
        self.manual_backward(total / self.config.train.accumulate)
        self.log("train/l1", (x - recon).abs().mean(), prog_bar=True, sync_dist=True)
        self.log_dict({"train/loss": total, "train/kl": kl}, sync_dist=True)

    def validation_step(self, x: Tensor, batch_index: int) -> None:
        real, recon = x[:, 0], self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample[:, 0].float()  # (B, M, T)
        l1 = reconstruction.mel_l1(real, recon).mean()
        distance = reconstruction.log_spectral_distance(real, recon).mean()
        metrics = {"val/mel_l1": l1, "val/log_spectral_distance": distance}  # nats, dB; as run_eval.sh reports them
        self.log_dict(metrics, batch_size=len(x), sync_dist=True)
        self.log("val/loss", l1, prog_bar=True, batch_size=len(x), sync_dist=True)
        if batch_index == 0 and previews.is_due(self):
            rows = [mels[: previews.COUNT] for mels in (real, recon)]
            previews.log_spectrograms(self, "val/real_above_reconstruction", rows)

    def export(self, folder: Path) -> None:
        """Write diffusers' `AutoencoderKL` folder with mel.json."""
        mel = asdict(MelSettings.of(self.config.preprocess))
        save_with_mel(self.vae, folder, mel | {"frames": self.config.preprocess.frames})
