"""Training of the mel autoencoder: L1 + KL, and a PatchGAN with an adaptive weight from `disc_start` on.

x, recon: (B, 1, M, T).
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sonolume.config.tta.autoencoderkl import Config
from sonolume.models.training import clip_and_step, optimizer, step_draws
from sonolume.models.tta.autoencoderkl import model
from sonolume.modules.autoencoder_loss import adaptive_weight, discriminator_loss, generator_loss, nll_loss
from sonolume.modules.discriminator import PatchDiscriminator
from sonolume.modules.mel import MelSettings
from sonolume.modules.metrics import reconstruction


class Task(pl.LightningModule):
    """Manual optimisation: two optimizers on each batch once the discriminator has started."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(config.train.random_seed)
        self.config = config
        self.vae = model.build(config.model.autoencoderkl)
        loss = config.model.loss
        self.discriminator = PatchDiscriminator(
            config.model.autoencoderkl.in_channels, loss.disc_channels, loss.disc_num_layers
        )
        self.logvar = nn.Parameter(torch.tensor(loss.logvar_init), requires_grad=False)
        self.steps_done = 0

    def configure_optimizers(self) -> Any:
        train = self.config.train
        vae, vae_rate = optimizer(self.vae.parameters(), train)
        disc, disc_rate = optimizer(self.discriminator.parameters(), train, start=self.config.model.loss.disc_start)
        return [vae, disc], [vae_rate, disc_rate]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps_done"] = self.steps_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["steps_done"]

    def training_step(self, x: Tensor, batch_index: int) -> None:
        loss, accumulate = self.config.model.loss, self.config.train.accumulate
        step = self.steps_done // accumulate
        with_gan = loss.disc_factor > 0 and step >= loss.disc_start
        for_vae = not loss.alternate or step % 2 == 0
        for_discriminator = with_gan and not (loss.alternate and for_vae)
        vae, discriminator = self.optimizers()  # type: ignore[misc]
        if for_vae or for_discriminator:
            recon, kl = self._reconstruct(x)
            if for_vae:
                with self.toggled_optimizer(vae):
                    self._generator_step(x, recon, kl, with_gan)
                clip_and_step(self, vae, self.steps_done, self.config.train)
            if for_discriminator:
                self._discriminator_step(x, recon.detach())
                clip_and_step(self, discriminator, self.steps_done, self.config.train)
        self.steps_done += 1
        for rate in self.lr_schedulers():  # type: ignore[union-attr]
            if self.steps_done % accumulate == 0:
                rate.step()

    def _reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(x).latent_dist
        mean = posterior.mean  # (B, z, h, w)
        world = self.trainer.world_size
        draws = step_draws(self.config.train.random_seed, self.steps_done, len(x), self.global_rank, world)
        noise = draws(lambda count, random: torch.randn(count, *mean.shape[1:], generator=random)).to(mean)
        recon = self.vae.decode(mean + posterior.std * noise).sample  # (B, 1, M, T)
        return recon.float(), posterior.kl().mean()

    def _generator_step(self, x: Tensor, recon: Tensor, kl: Tensor, with_gan: bool) -> None:
        loss = self.config.model.loss
        nll = nll_loss(x, recon, self.logvar)
        total = nll + loss.kl_weight * kl
        if with_gan:
            gan = generator_loss(self.discriminator(recon))
            weight = adaptive_weight(
                nll, gan, self.vae.decoder.conv_out.weight,
                loss.disc_weight, loss.min_adapt_d_weight, loss.max_adapt_d_weight,
            )  # fmt: skip
            total = total + weight * loss.disc_factor * gan
            self.log_dict({"train/gan": gan, "train/gan_weight": weight}, sync_dist=True)
        self.manual_backward(total / self.config.train.accumulate)
        self.log("train/l1", (x - recon).abs().mean(), prog_bar=True, sync_dist=True)
        self.log_dict({"train/loss": total, "train/kl": kl}, sync_dist=True)

    def _discriminator_step(self, x: Tensor, recon: Tensor) -> None:
        loss = discriminator_loss(self.discriminator(x), self.discriminator(recon))
        self.manual_backward(self.config.model.loss.disc_factor * loss / self.config.train.accumulate)
        self.log("train/discriminator", loss, sync_dist=True)

    def validation_step(self, x: Tensor, batch_index: int) -> None:
        real, recon = x[:, 0], self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample[:, 0].float()  # (B, M, T)
        l1 = reconstruction.mel_l1(real, recon).mean()
        distance = reconstruction.log_spectral_distance(real, recon).mean()
        found = {"val/mel_l1": l1, "val/log_spectral_distance": distance}  # nats, dB; as run_eval.sh reports them
        self.log_dict(found, batch_size=len(x), sync_dist=True)
        self.log("val/loss", l1, prog_bar=True, batch_size=len(x), sync_dist=True)
        if batch_index == 0:
            self._show(real[:4], recon[:4])

    def _show(self, real: Tensor, recon: Tensor) -> None:
        """Real above reconstructed spectrograms in TensorBoard, low frequencies at the bottom."""
        picture = torch.cat([torch.cat(list(real), -1), torch.cat(list(recon), -1)]).flip(0)  # rows run downwards
        half = len(picture) // 2
        picture = torch.cat([picture[half:], picture[:half]])  # flipping has swapped the two rows
        low, high = real.min(), real.max()
        self.logger.experiment.add_image(  # type: ignore[union-attr]
            "val/real_above_reconstruction", ((picture - low) / (high - low + 1e-6)).clamp(0, 1)[None], self.steps_done
        )

    def export(self, folder: Path) -> None:
        """diffusers' `AutoencoderKL` folder with mel.json."""
        preprocess = self.config.preprocess
        settings = {name: getattr(preprocess, name) for name in MelSettings.__dataclass_fields__}
        model.save(self.vae, folder, settings | {"frames": preprocess.frames})
