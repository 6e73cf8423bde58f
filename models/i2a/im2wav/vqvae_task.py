"""Training of the VQ-VAE of Im2Wav: reconstruction of waves from the tokens of each level.

B windows, n samples of a window, T tokens of a level, K codes.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sonolume.config.i2a.im2wav import Config
from sonolume.models import previews
from sonolume.models.i2a.im2wav import parts
from sonolume.models.i2a.im2wav.data import WaveItem
from sonolume.models.training import Frozen, RecipeTask, step_generator
from sonolume.modules.im2wav.losses import LossScales, perplexity, reconstruction_loss, spectral_convergence, vqvae_loss
from sonolume.modules.im2wav.quantizer import draw_rows
from sonolume.modules.im2wav.vqvae import VQVAE, Reconstruction
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.errors import UserError

LEVELS = ("up", "low")  # names of the levels in the log, from fine to coarse
_spectrogram = functools.cache(MelSpectrogram)


class VqvaeTask(RecipeTask):
    """Both levels at once; their networks and losses are independent of each other.

    The codebooks follow the encoders by their own averages, which `EMA` of the weights leaves alone.
    """

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        self.frozen, shape = frozen, config.model.vqvae
        if shape.decoders_only:
            self.frozen_keys = ("vqvae_path",)
            self.vqvae: VQVAE = copy.deepcopy(frozen["vqvae"]).train()
            self.vqvae.requires_grad_(False).decoders.requires_grad_(True)
        else:
            self.vqvae = VQVAE(
                shape.downs, shape.stride, shape.embedding_width, shape.codes, shape.width, shape.depth,
                shape.dilation_growth, shape.decay, shape.restart_threshold,
            )  # fmt: skip
            if config.model.init_path:
                parts.initialise(self.vqvae, "vqvae", config.model.init_path)
        self.scales: LossScales | None = None  # part of the checkpoint
        self.counts: list[Tensor] = []  # (K,) of each level: uses of every code in the validation

    def on_fit_start(self) -> None:
        """Estimate the scales of the losses; a resumed run has them from its checkpoint."""
        if self.scales is None:
            self.scales = self._estimate_scales()
            self.vqvae.register_to_config(scales=list(self.scales))

    def _estimate_scales(self) -> LossScales:
        """Estimate from evenly spaced training windows, the same ones in every process.

        Raises:
            UserError: all of them are silent.
        """
        data, seconds = self.trainer.datamodule.data, self.config.model.vqvae.scale_seconds  # type: ignore[attr-defined]
        window = self.config.preprocess.window / self.config.preprocess.sample_rate
        size = len(data.train)
        count = min(size, max(1, round(seconds / window)))

        def windows() -> Iterator[Tensor]:
            for number in range(count):
                yield data.collate([data.train[0, number * size // count]]).wave  # (1, n)

        try:
            return LossScales.estimate(windows())
        except ValueError as error:
            names = ", ".join(self.config.dataset)
            raise UserError(f"dataset {names}: the training sounds are silent: {error}") from error

    def training_step(self, batch: WaveItem, batch_index: int) -> Tensor:
        draws = step_generator(self.config.train.random_seed, batch_index)  # in the same state in every process
        rank, world = self.global_rank, self.trainer.world_size

        def draw(rows: Tensor, count: int) -> Tensor:
            return draw_rows(rows, count, draws, rank, world, self._sum)

        levels = self.vqvae(batch.wave, None if self.config.model.vqvae.decoders_only else draw, self._sum)
        loss = self._log("train", batch.wave, levels)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        for name, level in zip(LEVELS, levels, strict=True):
            for key, value in level.quantized.statistics._asdict().items():
                self.log(f"codebook_{name}/{key}", value.float())
        return loss

    def _sum(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        return self.trainer.strategy.reduce(tensor, reduce_op="sum")  # type: ignore[return-value]

    def _log(self, split: str, waves: Tensor, levels: Sequence[Reconstruction]) -> Tensor:
        """Log the losses of both levels, and return the training loss."""
        assert self.scales is not None
        scales = self.scales
        losses = [reconstruction_loss(waves, level.wave, scales) for level in levels]
        for name, level, found in zip(LEVELS, levels, losses, strict=True):
            values = {**found._asdict(), "commitment": level.quantized.commitment}
            named = {f"{split}_{name}/{key}": value for key, value in values.items()}
            self.log_dict(named, batch_size=len(waves), sync_dist=split == "val")
        loss = vqvae_loss(losses, levels)
        if self.config.model.vqvae.mel_weight:
            distance = self._mel_distance(waves, levels)
            self.log(f"{split}/mel", distance, batch_size=len(waves), sync_dist=split == "val")
            loss = loss + self.config.model.vqvae.mel_weight * distance
        return loss

    def _mel_distance(self, waves: Tensor, levels: Sequence[Reconstruction]) -> Tensor:
        """L1 distance of log-mels in nats, summed over the levels: the other losses hardly depend on quiet parts."""
        mel = self._mel(waves.device)
        real = mel(waves.float())                                                          # (B, M, T)
        return torch.stack([F.l1_loss(mel(level.wave.float()), real) for level in levels]).sum()

    def on_validation_epoch_start(self) -> None:
        codes = self.vqvae.config.codes
        self.counts = [torch.zeros(codes, device=self.device) for _ in self.vqvae.codebooks]

    def validation_step(self, batch: WaveItem, batch_index: int) -> None:
        levels = self.vqvae(batch.wave)  # before the first step all codes are zero, and stay so
        loss = self._log("val", batch.wave, levels)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.wave), sync_dist=True)
        for name, level, counts in zip(LEVELS, levels, self.counts, strict=True):
            distance = spectral_convergence(batch.wave, level.wave.float()).mean()
            self.log(f"val_{name}/spectral_convergence", distance, batch_size=len(batch.wave), sync_dist=True)
            counts += torch.bincount(level.quantized.tokens.flatten(), minlength=len(counts))
        if batch_index == 0 and previews.is_due(self):
            self._log_samples(batch.wave, levels)

    def _log_samples(self, waves: Tensor, levels: Sequence[Reconstruction]) -> None:
        rate, rows = self.config.preprocess.sample_rate, [waves[: previews.COUNT]]
        for name, level in zip(LEVELS, levels, strict=True):
            rows.append(level.wave[: previews.COUNT].float().clamp(-1, 1))
            previews.log_sounds(self, f"val_{name}", list(rows[-1]), rate)
        mel = self._mel(waves.device)
        previews.log_spectrograms(self, "val/real_above_up_above_low", [mel(row) for row in rows])

    def _mel(self, device: torch.device) -> MelSpectrogram:
        """The mel filters of the sample rate, built once; they are no part of the checkpoint."""
        return _spectrogram(MelSettings.full_band(self.config.preprocess.sample_rate)).to(device)

    def on_validation_epoch_end(self) -> None:
        for name, counts in zip(LEVELS, self.counts, strict=True):
            used = (counts > 0).float().sum()
            self.log_dict({f"val_{name}/perplexity": perplexity(counts), f"val_{name}/used": used}, sync_dist=True)

    def frozen_weights(self) -> list[str]:
        return [parts.tokens_hash(self.frozen["vqvae"])]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        assert self.scales is not None
        checkpoint["scales"] = self.scales._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.scales = LossScales(**checkpoint["scales"])
        self.vqvae.register_to_config(scales=list(self.scales))

    def export(self, folder: Path) -> None:
        """Write the VQ-VAE, whose config holds the scales, with the settings of the pipeline."""
        network = self.vqvae
        if self.config.model.vqvae.decoders_only:  # rounding in the average of equal weights would change some tokens
            network = copy.deepcopy(self.frozen["vqvae"])
            network.decoders.load_state_dict(self.vqvae.decoders.state_dict())
        parts.save(folder, {"vqvae": network}, parts.settings(self.config))
