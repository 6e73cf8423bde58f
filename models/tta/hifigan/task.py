"""Training of the vocoder: mel L1, LSGAN and feature matching, as published.

mel: (B, M, T) ln mel; real, fake: (B, T * hop) waves in -1..1.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sonolume.config.tta.hifigan import Config
from sonolume.models.training import clip_and_step, optimizer
from sonolume.models.tta.hifigan import model, warm_start
from sonolume.modules import vocoder_loss
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.metrics import reconstruction
from sonolume.modules.waveform_discriminators import WaveformDiscriminator

SHOWN = 3  # validation clips in TensorBoard


class Task(pl.LightningModule):
    """Manual optimisation: on each batch the discriminators, once they have started, then the generator."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(config.train.random_seed)
        self.config = config
        self.settings = MelSettings.of(config.preprocess)
        self.generator = model.build(config.model.hifigan, self.settings)
        shape = config.model.discriminator
        self.discriminator = WaveformDiscriminator(shape.periods, shape.scales, shape.width)
        warm_start.load(self.generator, self.discriminator, config.model, self.settings)
        if config.model.hifigan.weight_norm:
            self.generator.apply_weight_norm()
        self.mel = MelSpectrogram(self.settings)
        self.steps_done = 0

    def configure_optimizers(self) -> Any:
        train, start = self.config.train, self.config.model.loss.disc_start
        generator = optimizer(self.generator.parameters(), train)
        discriminator = optimizer(self.discriminator.parameters(), train, start=start)
        for _, rate in (generator, discriminator):
            rate.lr_lambdas = [self._decayed(rate.lr_lambdas[0])]
        return [generator[0], discriminator[0]], [generator[1], discriminator[1]]

    def _decayed(self, rate: Callable[[int], float]) -> Callable[[int], float]:
        """`rate` by step, times `lr_decay` for each epoch gone by."""
        train = self.config.train
        clips = len(self.trainer.datamodule.data.train)  # type: ignore[attr-defined]
        items = train.batch_size * train.accumulate * self.trainer.world_size  # of one optimizer step
        return lambda step: rate(step) * train.lr_decay ** (step * items // clips)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["steps_done"] = self.steps_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_done = checkpoint["steps_done"]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        mel, real = batch
        loss, accumulate = self.config.model.loss, self.config.train.accumulate
        with_gan = loss.adversarial_weight > 0 and self.steps_done // accumulate >= loss.disc_start
        generator, discriminator = self.optimizers()  # type: ignore[misc]
        fake = model.vocode(self.generator, mel)
        if with_gan:
            with self.toggled_optimizer(discriminator):
                self._discriminator_step(real, fake.detach())
            clip_and_step(self, discriminator, self.steps_done, self.config.train)
        with self.toggled_optimizer(generator):  # the discriminators pass gradients on and collect none
            self._generator_step(real, fake, with_gan)
        clip_and_step(self, generator, self.steps_done, self.config.train)
        self.steps_done += 1
        for rate in self.lr_schedulers():  # type: ignore[union-attr]
            if self.steps_done % accumulate == 0:
                rate.step()

    def _discriminator_step(self, real: Tensor, fake: Tensor) -> None:
        loss = vocoder_loss.discriminator_loss(self.discriminator(real)[0], self.discriminator(fake)[0])
        self.manual_backward(loss / self.config.train.accumulate)
        self.log("train/discriminator", loss, sync_dist=True)

    def _generator_step(self, real: Tensor, fake: Tensor, with_gan: bool) -> None:
        weights = self.config.model.loss
        with torch.autocast(real.device.type, enabled=False):  # spectra need all their digits
            mel = vocoder_loss.mel_loss(real, fake.float(), self.mel)
            total = weights.mel_weight * mel
            if weights.stft_weight:
                stft = vocoder_loss.stft_loss(real, fake.float())
                total = total + weights.stft_weight * stft
                self.log("train/stft", stft, sync_dist=True)
        if with_gan:
            total = total + weights.adversarial_weight * self._adversarial(real, fake)
        self.manual_backward(total / self.config.train.accumulate)
        self.log("train/mel_l1", mel, prog_bar=True, sync_dist=True)
        self.log("train/loss", total, sync_dist=True)

    def _adversarial(self, real: Tensor, fake: Tensor) -> Tensor:
        with torch.no_grad():
            _, wanted = self.discriminator(real)
        logits, found = self.discriminator(fake)
        gan, features = vocoder_loss.generator_loss(logits), vocoder_loss.feature_loss(wanted, found)
        self.log_dict({"train/gan": gan, "train/features": features}, sync_dist=True)
        return gan + self.config.model.loss.feature_weight * features

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        mel, real = batch
        fake = model.vocode(self.generator, mel).float()
        with torch.autocast(real.device.type, enabled=False):
            wanted, found = self.mel(real), self.mel(fake)  # (B, M, T)
        l1 = reconstruction.mel_l1(wanted, found).mean()
        distance = reconstruction.log_spectral_distance(wanted, found).mean()
        logged = {"val/mel_l1": l1, "val/log_spectral_distance": distance}  # nats, dB; as run_eval.sh reports them
        self.log_dict(logged, batch_size=len(mel), sync_dist=True)
        self.log("val/loss", l1, prog_bar=True, batch_size=len(mel), sync_dist=True)
        if batch_index == 0 and self.steps_done and self.trainer.is_global_zero and self.logger is not None:
            self._show(real[:SHOWN], fake[:SHOWN])

    def _show(self, real: Tensor, fake: Tensor) -> None:
        """Sounds, and real above vocoded spectrograms, in TensorBoard; low frequencies at the bottom."""
        board = self.logger.experiment  # type: ignore[union-attr]
        for number, wave in enumerate(fake):
            board.add_audio(f"val/{number}", wave.cpu().numpy(), self.steps_done, self.settings.sample_rate)
        rows = [torch.cat(list(self.mel(waves).flip(1)), -1) for waves in (real, fake)]  # rows run downwards
        low, high = rows[0].min(), rows[0].max()
        picture = ((torch.cat(rows) - low) / (high - low + 1e-6)).clamp(0, 1)
        board.add_image("val/real_above_vocoded", picture[None], self.steps_done)

    def export(self, folder: Path) -> None:
        """transformers' `SpeechT5HifiGan` folder, norms folded, with mel.json."""
        model.save(self.generator, folder, self.settings)
