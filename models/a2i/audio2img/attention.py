"""Training of the head attention: keys and values for the states of sounds in a frozen U-Net, from pictures.

States and latents are cached under {processed_dir}/{dataset}/cache/. With `preprocess.cache_features` false, items hold
the waves instead of the states. B items, n samples, K states of C values, L text states of width D, z latent channels,
h x w latent size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.a2i.audio2img import Config
from sonolume.models import previews
from sonolume.models.a2i.attention_prompt import tokenise
from sonolume.models.a2i.audio2img.attention_encoder import AttentionEncoder, SoundStates, load_sound_states, save
from sonolume.models.a2i.frozen import cached_features, cached_moments, frozen_stable_diffusion
from sonolume.models.a2i.pairs import PairDataset
from sonolume.models.a2i.pipeline import AudioToImagePipeline, remove_placeholder
from sonolume.models.a2i.preview_pictures import log_preview
from sonolume.models.latent_diffusion import DiffusionObjective, diffusion_loss, draw_target
from sonolume.models.training import Draw, Frozen, RecipeTask, training_draws, validation_draws
from sonolume.modules.decoupled_attention import AudioAttention, cross_attention_sizes, install
from sonolume.preprocessors import prepared
from sonolume.utils.errors import UserError
from sonolume.utils.shards import Column


class Batch(NamedTuple):
    """A batch, or without B one item of the data set."""

    sound: Tensor  # (B, K, C) states, or (B, n) waves
    moments: Tensor  # (B, 2z, h, w) mean and log-variance of the latents
    ids: Tensor  # (B, L) tokens of the text


class SoundPictures(PairDataset):
    """States of windows of sound with the latents of their pictures, and a text."""

    def __init__(self, config: Config, split: str, frozen: Frozen) -> None:
        sounds: SoundStates = frozen["sounds"]
        seed, rate = config.train.random_seed, sounds.encoder.sample_rate
        super().__init__(config.preprocess, config.dataset, split, seed, rate)
        self.caption_share, self.tokenizer = config.model.caption_share, frozen["sd"].tokenizer
        self.words = remove_placeholder(config.model.prompt)
        folder = prepared.cache_folder(config.preprocess, config.dataset)
        self.moments = cached_moments(folder, split, self.images, frozen["sd"].vae, config.train)
        self.states: Column | None = None
        if config.preprocess.cache_features:
            identity = [*sounds.network.state_dict().values(), sounds.encoder.window]
            name = f"states of {split}"
            self.states = cached_features(
                folder, name, self.windows, sounds.network, sounds, config.train, identity=identity
            )

    def __getitem__(self, item: tuple[int, int]) -> Batch:
        window, picture = self.draw_pair(*item)
        moments = torch.from_numpy(self.moments[picture].astype(np.float32))
        return Batch(self.sound(window), moments, tokenise([self.text(*item)], self.tokenizer, truncation=True)[0])

    def text(self, epoch: int, index: int) -> str:
        """Draw one of the captions of a clip, else its label, or the words of the prompt."""
        row, random = self.rows[index], np.random.default_rng([self.seed, epoch, index, 1])
        texts = row.captions or ([row.label] if row.label else [])
        if not texts or random.random() >= self.caption_share:
            return self.words
        return texts[random.integers(len(texts))]

    def sound(self, window: int) -> Tensor:
        """States (K, C) of a window, or its wave (n,) without a cache."""
        if self.states is None:
            return self.windows[window]
        return torch.from_numpy(self.states[window].astype(np.float32))


def load_frozen(config: Config) -> Frozen:
    """Load Stable Diffusion and the encoder of sounds."""
    sd, sounds = frozen_stable_diffusion(config.model.stable_diffusion), load_sound_states(config.model.sound_encoder)
    longest, length = sounds.encoder.window, config.preprocess.input_length
    if length > longest:
        raise UserError(f"preprocess.input_length {length:g}: model.sound_encoder {config.model.sound_encoder} encodes "
                        f"{longest:g} s at once: set it to at most that")  # fmt: skip
    return Frozen(sd=sd, sounds=sounds)


class AttentionTask(RecipeTask):
    frozen_keys = ("stable_diffusion", "sound_encoder")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        sd, sounds = frozen["sd"], frozen["sounds"]
        self.objective = DiffusionObjective.of_scheduler(sd.scheduler)
        if config.train.accelerator == "cpu" or not torch.cuda.is_available():
            sd.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        one = sounds(torch.zeros(1, round(config.preprocess.input_length * sounds.encoder.sample_rate)))  # (1, K, C)
        torch.manual_seed(config.train.random_seed)
        width, limit = sd.text_encoder.config.hidden_size, sd.tokenizer.model_max_length
        self.head = AudioAttention(cross_attention_sizes(sd.unet), width, limit, *one.shape[1:])
        install(self.head, sd.unet)
        if config.model.gradient_checkpointing:
            sd.unet.enable_gradient_checkpointing()

    def on_fit_start(self) -> None:
        """Move the frozen networks of the training step, as they are no submodules; the VAE is for previews only."""
        for network in (self.frozen["sd"].unet, self.frozen["sd"].text_encoder, self.frozen["sounds"].network):
            network.to(self.device)

    def loss(self, batch: Batch, draws: Callable[[Draw], Tensor]) -> Tensor:
        """Denoising error of the frozen U-Net; `draws` as `training_draws` returns it.

        No sound is left out for guidance: without one, the head adds nothing, and the U-Net predicts as it always did.
        """
        sd = self.frozen["sd"]
        target = draw_target(batch.moments, sd.vae, self.objective, draws)
        with torch.no_grad():
            texts = sd.text_encoder(batch.ids).last_hidden_state                              # (B, L, D)
        sounds = self.head(self._states(batch.sound))                                         # (B, K, D)
        states = torch.cat([texts.to(sounds.dtype), sounds], dim=1)                           # (B, L + K, D)
        return diffusion_loss(sd.unet(target.noisy, target.timesteps, states).sample, target)

    def _states(self, sound: Tensor) -> Tensor:
        """States (B, K, C) of waves (B, n), or the given states if they were cached."""
        return sound if sound.ndim == 3 else self.frozen["sounds"](sound)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.loss(batch, training_draws(self, len(batch.ids), batch_index))
        self.log_losses("train", {"loss": loss}, len(batch.ids))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self.log_losses("val", {"loss": self.loss(batch, validation_draws(self, batch_index))}, len(batch.ids))

    @torch.no_grad()
    def on_validation_epoch_end(self) -> None:
        """Pictures of a few validation sounds in TensorBoard, below the real ones."""
        data: SoundPictures = self.trainer.datamodule.data.valid  # type: ignore[attr-defined]
        clips = range(min(previews.COUNT, len(data)))
        if not self.config.model.preview or not clips or not previews.is_due(self):
            return
        sounds = torch.stack([data.sound(int(data.first_window[clip])) for clip in clips])   # (N, K, C) or (N, n)
        real = [data.images[int(data.first_image[clip])] / 2 + 0.5 for clip in clips]         # (3, H, W) each
        tokens = self.head(self._states(sounds.to(self.device))).float()                      # (N, K, D)
        log_preview(self, tokens, real, self.config.preprocess.height, self.config.preprocess.width)

    def pipeline(self) -> AudioToImagePipeline:
        """The model in its present state, ready to draw."""
        config, sd = self.config, self.frozen["sd"]
        encoder = AttentionEncoder(
            self.frozen["sounds"], self.head, config.model.prompt, config.preprocess.input_length
        )
        pipe = AudioToImagePipeline(encoder, sd.to(self.device))
        pipe.guidance_scale = config.model.guidance_scale
        return pipe

    def frozen_weights(self) -> list[Any]:
        """The U-Net, the text encoder and the encoder of sounds."""
        sd, sounds = self.frozen["sd"], self.frozen["sounds"]
        return [*sd.unet.parameters(), *sd.text_encoder.parameters(), *sounds.network.parameters()]

    def export(self, folder: Path) -> None:
        """Write the head, and the names of the frozen networks."""
        model, names = self.config.model, ("stable_diffusion", "sound_encoder", "prompt", "guidance_scale")
        settings = {name: getattr(model, name) for name in names}
        save(folder, self.head, settings | {"window": self.config.preprocess.input_length})
