"""Training of a network that turns a sound into tokens for Stable Diffusion, through its frozen U-Net.

The loss is the denoising error plus AudioToken's regularisers of the tokens. B items, K tokens of a sound, z latent
channels, h x w latent size, L text tokens of width D.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from sonolume.config.options import LARGEST_SEED
from sonolume.models import previews
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.a2i.preview_pictures import log_preview
from sonolume.models.latent_diffusion import DiffusionObjective, diffusion_loss, draw_target
from sonolume.models.training import Draw, Frozen, RecipeTask, training_draws, validation_draws
from sonolume.modules.audiotoken import inject, token_losses, tokenise
from sonolume.utils.errors import UserError


class TokenTask(RecipeTask):
    """Base of such a training: a recipe adds `tokens` and `pipeline`.

    Batches have `audio`, `moments` (B, 2z, h, w) and `label` (B, D), of which zeros are no label. The data set is a
    `PairDataset`, or has its `audio`, `images`, `first_window` and `first_image`.

    Args:
        frozen: has `sd`, the frozen Stable Diffusion.
        num_tokens: K.
        lambda_a, lambda_b, lambda_c: weights of `token_losses`.
        gradient_checkpointing: of the U-Net.
    """

    def __init__(
        self, config: Any, frozen: Frozen, num_tokens: int, lambda_a: float, lambda_b: float = 0.0,
        lambda_c: float = 0.0, gradient_checkpointing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(config, frozen)
        sd = frozen["sd"]
        self.num_tokens, self.weights = num_tokens, (lambda_a, lambda_b, lambda_c)
        try:
            self.ids = tokenise(sd.tokenizer, [config.model.prompt], num_tokens)             # (1, L)
        except ValueError as error:
            raise UserError(f"model.prompt: {error}") from error
        self.objective = DiffusionObjective.of_scheduler(sd.scheduler)
        if config.train.accelerator == "cpu" or not torch.cuda.is_available():
            sd.unet.set_attn_processor(AttnProcessor())  # the fused kernel's backward pass is slower on a CPU
        if gradient_checkpointing:
            sd.unet.enable_gradient_checkpointing()
        torch.manual_seed(config.train.random_seed)

    def tokens(self, audio: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Tokens (B, K, D) of a batch's `audio`; `seeds` (B,) are of each item's dropout."""
        raise NotImplementedError

    def pipeline(self) -> AudioToImagePipeline:
        """The model in its present state, ready to draw."""
        raise NotImplementedError

    def on_fit_start(self) -> None:
        """Move the frozen networks of the training step, as they are no submodules; the VAE is for previews only."""
        for network in (self.frozen["sd"].unet, self.frozen["sd"].text_encoder):
            network.to(self.device)

    def losses(self, batch: Any, draws: Callable[[Draw], Tensor]) -> dict[str, Tensor]:
        """All losses of a batch, scalars; "loss" is their weighted sum. `draws` as `training_draws` returns it."""
        sd = self.frozen["sd"]
        target = draw_target(batch.moments, sd.vae, self.objective, draws)
        seeds = draws(_seeds)
        tokens = self.tokens(batch.audio, seeds)                                             # (B, K, D)
        ids = self.ids.to(tokens.device).expand(len(tokens), -1)                             # (B, L)
        states = inject(sd.text_encoder, ids, tokens, self.num_tokens).last_hidden_state     # (B, L, D)
        prediction = sd.unet(target.noisy, target.timesteps, states).sample                  # (B, z, h, w)
        noise_loss = diffusion_loss(prediction, target)
        # a single token without its dimension: the order of sums, thus the last bits, of AudioToken's earlier training
        terms = token_losses(tokens.squeeze(1), batch.label, self._mean_over_processes)
        lambda_a, lambda_b, lambda_c = self.weights
        total = noise_loss + lambda_a * terms.l1 + lambda_b * terms.l2
        if lambda_c:
            total = total + lambda_c * terms.classification
        return {"loss": total, "noise": noise_loss, **terms._asdict()}

    def _mean_over_processes(self, mean: Tensor) -> Tensor:
        """Average over the processes in training; in validation, every process has all items."""
        return self.all_gather(mean).mean() if self.trainer.training and self.trainer.world_size > 1 else mean  # type: ignore[union-attr]

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        losses = self.losses(batch, training_draws(self, len(batch.audio), batch_index))
        self.log_losses("train", losses, len(batch.audio))
        return losses["loss"]

    def validation_step(self, batch: Any, batch_index: int) -> None:
        self.log_losses("val", self.losses(batch, validation_draws(self, batch_index)), len(batch.audio))

    @torch.no_grad()
    def on_validation_epoch_end(self) -> None:
        """Pictures of a few validation sounds in TensorBoard, below the real ones."""
        if not previews.is_due(self):
            return
        data: Any = self.trainer.datamodule.data.valid  # type: ignore[attr-defined]
        clips = range(min(previews.COUNT, len(data)))
        if not clips:
            return
        audio = torch.stack([data.audio(int(data.first_window[clip])) for clip in clips])    # (B, ...)
        real = [data.images[int(data.first_image[clip])] / 2 + 0.5 for clip in clips]         # (3, H, W) each
        tokens = self.tokens(audio.to(self.device)).float()                                   # (B, K, D)
        log_preview(self, tokens, real, self.config.preprocess.height, self.config.preprocess.width)


def _seeds(count: int, random: torch.Generator) -> Tensor:
    return torch.randint(LARGEST_SEED, (count,), generator=random)
