"""Training of the two priors of Im2Wav over the tokens of a frozen VQ-VAE, given CLIP vectors of pictures.

B items, n samples of a window, T tokens of a level, F frames, V width of the image vectors.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sonolume.config.i2a.im2wav import Config, Stage
from sonolume.config.options import LARGEST_SEED
from sonolume.models import previews
from sonolume.models.i2a.im2wav import parts
from sonolume.models.i2a.im2wav.data import Batch
from sonolume.models.i2a.im2wav.image_encoder import ImageEncoder
from sonolume.models.i2a.im2wav.vqvae_task import VqvaeTask
from sonolume.models.training import Draw, Frozen, RecipeTask, training_draws
from sonolume.modules.im2wav.prior import LowPrior, UpPrior
from sonolume.modules.im2wav.sampler import TokenSampler, TokenSampling
from sonolume.modules.im2wav.transformer import bits_per_token
from sonolume.modules.im2wav.vqvae import VQVAE
from sonolume.modules.mel import MelSettings, MelSpectrogram
from sonolume.utils.errors import ConfigError, UserError


def load_frozen(config: Config) -> Frozen:
    """Load CLIP and the VQ-VAE of the priors' training, or the VQ-VAE whose decoders are trained."""
    if config.stage is Stage.vqvae and not config.model.vqvae.decoders_only:
        return Frozen()
    model = config.model
    vqvae = parts.load_vqvae(model.vqvae_path, "model.vqvae_path")
    parts.check_agreement(model.vqvae_path, "model.vqvae_path", {"sample_rate": config.preprocess.sample_rate})
    if config.stage is Stage.vqvae:
        return Frozen(vqvae=vqvae)
    clip = ImageEncoder.load(model.clip)
    if config.stage is Stage.up:
        check_low(config, vqvae, clip)
    return Frozen(clip=clip, vqvae=vqvae)


def check_low(config: Config, vqvae: VQVAE, clip: ImageEncoder) -> None:
    """Check, before the Up prior is trained, that the Low prior of its export fits.

    Raises:
        UserError: `model.low_path` has no Low prior, or one for another VQ-VAE, window, frame rate or CLIP.
    """
    key, source = "model.low_path", config.model.low_path
    low, data = parts.load_low(source, key), config.preprocess
    shared = {"sample_rate": data.sample_rate, "window": data.window, "fps": data.fps}
    parts.check_agreement(source, key, shared | {"clip_hash": clip.content_hash})
    if low.config.image_width != clip.width:
        raise UserError(f"{key} {source}: its image vectors have width {low.config.image_width}, "
                        f"those of model.clip {config.model.clip} {clip.width}")  # fmt: skip
    folder = parts.locate(source, key, "low")
    parts.check_tokens(folder, source, key, vqvae, f"model.vqvae_path {config.model.vqvae_path}")


def build_task(config: Config, frozen: Frozen) -> pl.LightningModule:
    """Build the task of the config's stage."""
    return VqvaeTask(config, frozen) if config.stage is Stage.vqvae else Task(config, frozen)


def build_prior(config: Config, hops: list[int], codes: int, image_width: int) -> LowPrior | UpPrior:
    """Build the prior of the config's stage for the tokens of a VQ-VAE.

    Raises:
        ConfigError: the window, its tokens and the blocks of the attention do not fit each other.
    """
    is_low, window = config.stage is Stage.low, config.preprocess.window
    prior, hop = (config.model.low, hops[1]) if is_low else (config.model.up, hops[0])
    if window % hops[1] or window // hop % prior.blocks:
        raise ConfigError(f"preprocess.window {window} must be a multiple of {hops[1]}, the coarse hop of the VQ-VAE, "
                          f"and of blocks {prior.blocks} tokens of {hop} samples")  # fmt: skip
    shared: dict[str, Any] = {
        "codes": codes, "positions": window // hop, "width": prior.width, "depth": prior.depth, "heads": prior.heads,
        "blocks": prior.blocks, "attention_ratio": prior.attention_ratio, "mlp_ratio": prior.mlp_ratio,
        "init_scale": prior.init_scale, "image_width": image_width, "image_dropout": prior.image_dropout,
        "has_null": prior.guidance_dropout > 0,
    }  # fmt: skip
    if is_low:
        low = config.model.low
        times = {"time_bins": low.time_bins, "min_seconds": low.min_seconds, "max_seconds": low.max_seconds}
        return LowPrior(**shared, **times, sample_rate=config.preprocess.sample_rate)
    up = config.model.up
    shared |= {"conv_width": up.conv_width, "conv_depth": up.conv_depth, "dilation_growth": up.dilation_growth}
    return UpPrior(**shared, dilation_cycle=up.dilation_cycle, rates=parts.rates(hops))


class Task(RecipeTask):
    """Next-token prediction by the prior of one level."""

    frozen_keys = ("clip", "vqvae_path")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config)
        self.frozen = frozen
        vqvae = frozen["vqvae"]
        self.prior: Any = build_prior(config, vqvae.hops, vqvae.config.codes, frozen["clip"].width)
        if config.model.init_path:
            self._initialise(vqvae)
        self.prior.transformer.recompute = self.section.recompute
        self.level = 1 if config.stage is Stage.low else 0

    def _initialise(self, vqvae: VQVAE) -> None:
        """Start from the prior of `model.init_path`, which must agree with the data and the VQ-VAE of this run."""
        model, data, key = self.config.model, self.config.preprocess, "model.init_path"
        shared = {"sample_rate": data.sample_rate, "fps": data.fps, "clip_hash": self.frozen["clip"].content_hash}
        parts.check_agreement(model.init_path, key, shared)
        folder = parts.locate(model.init_path, key, self.config.stage.value)
        parts.check_tokens(folder, model.init_path, key, vqvae, f"model.vqvae_path {model.vqvae_path}")
        parts.initialise(self.prior, self.config.stage.value, model.init_path)

    @property
    def section(self) -> Any:
        """The config of this prior."""
        return self.config.model.low if self.config.stage is Stage.low else self.config.model.up

    def setup(self, stage: str) -> None:
        self.frozen["vqvae"].to(self.device)

    def loss(self, batch: Batch, draws: Callable[[Draw], Tensor] | None) -> Tensor:
        """Mean cross-entropy in bits per token; without `draws`, all images are kept and nothing is dropped out."""
        keep, seeds = None, None
        if draws:
            dropped = draws(lambda count, random: torch.rand(count, generator=random)) < self.section.guidance_dropout
            keep = ~dropped.to(self.device) if self.section.guidance_dropout else None              # (B,)
            seeds = draws(lambda count, random: torch.randint(LARGEST_SEED, (count,), generator=random))
        tokens = self.tokens(batch, self.level)                                                     # (B, T)
        if self.level:
            logits = self.prior(tokens, batch.frames, batch.times, keep, seeds)                     # (B, T, codes)
        else:
            logits = self.prior(tokens, batch.frames.mean(dim=1), self.tokens(batch, 1), keep, seeds)
        return bits_per_token(logits, tokens)

    def tokens(self, batch: Batch, level: int) -> Tensor:
        """Tokens (B, T) of a level: those of the batch, or encoded from its waves."""
        stored = (batch.up_tokens, batch.low_tokens)[level]
        if stored is not None:
            return stored.long()
        with torch.autocast(self.device.type, enabled=False):  # full precision, as for the stored tokens
            return self.frozen["vqvae"].encode(batch.waves, level)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.loss(batch, training_draws(self, len(batch.frames), batch_index))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss = self.loss(batch, None)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.frames), sync_dist=True)

    @torch.no_grad()
    def on_validation_epoch_end(self) -> None:
        """Sounds sampled from the images of a few validation items in TensorBoard, after the real ones."""
        if not previews.is_due(self):
            return
        data = self.trainer.datamodule.data  # type: ignore[attr-defined]
        count = min(previews.COUNT, len(data.valid))
        if not count:
            return
        batch = self.transfer_batch_to_device(
            data.collate([data.valid[0, item] for item in range(count)]), self.device, 0
        )
        real, vqvae = self.tokens(batch, self.level), self.frozen["vqvae"]
        sampled = self.sample(batch)
        rows = [vqvae.decode(tokens, self.level).float().cpu() for tokens in (real, sampled)]
        rate = self.config.preprocess.sample_rate
        mel = MelSpectrogram(MelSettings.full_band(rate))
        previews.log_sounds(self, "preview", list(rows[1]), rate)
        previews.log_spectrograms(self, "preview", [mel(row) for row in rows])

    def sample(self, batch: Batch) -> Tensor:
        """Sample tokens (B, T) for the images of a batch, with the default guidance."""
        count, scale = len(batch.frames), self.config.model.guidance_scale if self.section.guidance_dropout else 1.0
        inputs = (batch.frames, batch.times) if self.level else (batch.frames.mean(dim=1), self.tokens(batch, 1))
        condition = self.prior.conditioner(*inputs)
        none = torch.zeros(count, dtype=torch.bool, device=self.device)
        null = self.prior.conditioner(*inputs, keep=none) if scale != 1 else None
        sampler = TokenSampler(self.prior.transformer, count, TokenSampling(guidance=scale))
        generators = [torch.Generator(self.device).manual_seed(number) for number in range(count)]
        return sampler.generate(condition, null, generators)

    def frozen_weights(self) -> list[str]:
        """Hashes of the weights that decide the tokens, and of CLIP."""
        return [parts.tokens_hash(self.frozen["vqvae"]), self.frozen["clip"].content_hash]

    def export(self, folder: Path) -> None:
        """Write all networks trained so far, with the settings of the pipeline."""
        networks = {"vqvae": self.frozen["vqvae"], self.config.stage.value: self.prior}
        if self.level == 0:
            networks["low"] = parts.load_low(self.config.model.low_path, "model.low_path")
        settings = parts.settings(self.config) | {"clip_hash": self.frozen["clip"].content_hash}
        parts.save(folder, networks, settings)
