"""Training of the vocoder: mel L1, LSGAN and feature matching, as published.

mel: (B, M, T) ln mel; real, fake: (B, T * hop) waves in -1..1.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.tta.hifigan import Config
from sonolume.models import previews
from sonolume.models.gan import ManualOptimization
from sonolume.models.training import Frozen, optimizer
from sonolume.models.tta.hifigan import model
from sonolume.modules import vocoder_loss
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.modules.metrics import reconstruction
from sonolume.modules.vocoder_loss import WaveformDiscriminator
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError


class Task(ManualOptimization):
    """Each batch trains the discriminators, once they have started, then the generator."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        torch.manual_seed(config.train.random_seed)
        self.settings = MelSettings.of(config.preprocess)
        self.generator = model.build(config.model.hifigan, self.settings)
        shape = config.model.discriminator
        self.discriminator = WaveformDiscriminator(shape.periods, shape.scales, shape.width)
        self._load_pretrained()
        if config.model.hifigan.weight_norm:
            self.generator.apply_weight_norm()
        self.mel = MelSpectrogram(self.settings)

    def _load_pretrained(self) -> None:
        """Load the weights that the config names, if any; a UserError if one is missing, damaged or does not fit."""
        generator, discriminators = self.config.model.pretrained, self.config.model.pretrained_discriminators
        if generator:
            weights = dict(model.load(generator, "model.pretrained", self.settings).state_dict())
            model.fill(self.generator, weights, f"model.pretrained {generator}", "model.hifigan")
        if discriminators:
            key = f"model.pretrained_discriminators {discriminators}"
            content = checkpoint.read(paths.resolve(discriminators))
            if not {"mpd", "msd"} <= content.keys():
                found = ", ".join(map(str, content))[:60]
                raise UserError(f"{key}: holds {found}, not the mpd and msd of an official do_* file")
            model.fill(self.discriminator, vocoder_loss.official_weights(content), key, "model.discriminator")

    def configure_optimizers(self) -> Any:
        train, start = self.config.train, self.config.model.loss.disc_start
        generator, generator_rate = optimizer(self.generator.parameters(), train)
        discriminator, discriminator_rate = optimizer(self.discriminator.parameters(), train, start=start)
        clips = len(self.trainer.datamodule.data.train)  # type: ignore[attr-defined]
        items = train.batch_size * train.accumulate * self.trainer.world_size  # of one optimizer step
        for rate in (generator_rate, discriminator_rate):  # decay by epochs
            schedule = rate.lr_lambdas[0]
            rate.lr_lambdas = [lambda step, of=schedule: of(step) * train.lr_decay ** (step * items // clips)]
        return [generator, discriminator], [generator_rate, discriminator_rate]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        mel, real = batch
        loss = self.config.model.loss
        with_gan = loss.adversarial_weight > 0 and self.optimizer_step_index >= loss.disc_start
        generator, discriminator = self.optimizers()  # type: ignore[misc]
        fake = model.vocode(self.generator, mel)
        if with_gan:
            with self.toggled_optimizer(discriminator):
                logits = self.discriminator(real)[0], self.discriminator(fake.detach())[0]
                discriminator_loss = vocoder_loss.discriminator_loss(*logits)
                self.manual_backward(discriminator_loss / self.config.train.accumulate)
            self.log("train/discriminator", discriminator_loss, sync_dist=True)
            self.clip_and_step(discriminator)
        with self.toggled_optimizer(generator):  # the discriminators pass gradients on and collect none
            self._generator_step(real, fake, with_gan)
        self.clip_and_step(generator)
        self.end_batch()

    def _generator_step(self, real: Tensor, fake: Tensor, with_gan: bool) -> None:
        weights = self.config.model.loss
        with torch.autocast(real.device.type, enabled=False):  # spectra need full precision
            mel = vocoder_loss.mel_loss(real, fake.float(), self.mel)
            total = weights.mel_weight * mel
            if weights.stft_weight:
                stft = vocoder_loss.stft_loss(real, fake.float())
                total = total + weights.stft_weight * stft
                self.log("train/stft", stft, sync_dist=True)
        if with_gan:
            with torch.no_grad():
                _, real_features = self.discriminator(real)
            logits, fake_features = self.discriminator(fake)
            gan, features = vocoder_loss.generator_loss(logits), vocoder_loss.feature_loss(real_features, fake_features)
            total = total + weights.adversarial_weight * (gan + weights.feature_weight * features)
            self.log_dict({"train/gan": gan, "train/features": features}, sync_dist=True)
        self.manual_backward(total / self.config.train.accumulate)
        self.log("train/mel_l1", mel, prog_bar=True, sync_dist=True)
        self.log("train/loss", total, sync_dist=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        mel, real = batch
        fake = model.vocode(self.generator, mel).float()
        with torch.autocast(real.device.type, enabled=False):
            real_mel, fake_mel = self.mel(real), self.mel(fake)  # (B, M, T)
        l1 = reconstruction.mel_l1(real_mel, fake_mel).mean()
        distance = reconstruction.log_spectral_distance(real_mel, fake_mel).mean()
        metrics = {"val/mel_l1": l1, "val/log_spectral_distance": distance}  # nats, dB; as run_eval.sh reports them
        self.log_dict(metrics, batch_size=len(mel), sync_dist=True)
        self.log("val/loss", l1, prog_bar=True, batch_size=len(mel), sync_dist=True)
        if batch_index == 0 and previews.is_due(self):
            count = previews.COUNT
            previews.log_sounds(self, "val", list(fake[:count]), self.settings.sample_rate)
            previews.log_spectrograms(self, "val/real_above_vocoded", [real_mel[:count], fake_mel[:count]])

    def export(self, folder: Path) -> None:
        """Write transformers' `SpeechT5HifiGan` folder, norms folded, with mel.json."""
        model.save(self.generator, folder, self.settings)
