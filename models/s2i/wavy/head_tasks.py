"""Stage 2: heads from the frozen speech encoder into a frozen Stable Diffusion.

B items, n samples, T frames, d width of HuBERT, J width of a speech vector, K tokens or states, D text width.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonolume.config.s2i.wavy import Config, Head, Stage
from sonolume.models import previews
from sonolume.models.a2i import frozen as frozen_networks
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.a2i.preview_pictures import log_preview
from sonolume.models.a2i.token_task import TokenTask
from sonolume.models.s2i.wavy.data import SequenceBatch, SpeechTexts
from sonolume.models.s2i.wavy.encoder import HUBERT, IMAGE_ENCODER, WavyEncoder, save, source_of
from sonolume.models.training import Frozen, RecipeTask, gather_rows, seeded, step_generator
from sonolume.modules.sequence_alignment import alignment_losses, same_text
from sonolume.modules.speech_clip import SequenceHead, TokenHead


class TokenHeadTask(TokenTask):
    """Tokens in the place of `<*>`, trained through the U-Net on the pictures."""

    frozen_keys = ("encoder", "stable_diffusion")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        token, sd, vectors = config.model.token, frozen["sd"], frozen["vectors"]
        super().__init__(config, frozen, token.num_tokens, token.lambda_a, 0.0, 0.0, token.gradient_checkpointing)
        table = sd.text_encoder.get_input_embeddings().weight
        norm = float(table.detach().float().norm(dim=1).mean())
        self.head = TokenHead(vectors.width, table.shape[1], token.num_tokens, norm)

    def tokens(self, audio: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Tokens (B, K, D) of speech vectors (B, J)."""
        return self.head(audio)

    def pipeline(self) -> AudioToImagePipeline:
        return _pipeline(self, self.head, self.frozen["sd"])

    def frozen_weights(self) -> list[Tensor]:
        """The speech encoder, the U-Net and the text encoder."""
        sd, vectors = self.frozen["sd"], self.frozen["vectors"]
        return [*vectors.network.parameters(), *sd.unet.parameters(), *sd.text_encoder.parameters()]

    def export(self, folder: Path) -> None:
        _export(self, folder, self.head, Head.token)


class SequenceHeadTask(RecipeTask):
    """States in the place of the text states, trained on those of the captions; no U-Net is in memory."""

    frozen_keys = ("encoder", "stable_diffusion")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        sequence, self.vectors = config.model.sequence, frozen["vectors"]
        torch.manual_seed(config.train.random_seed)
        self.head = SequenceHead(
            self.vectors.hubert.width, frozen["text_encoder"].config.hidden_size, frozen["num_states"],
            sequence.width, sequence.layers, sequence.num_heads, sequence.dropout,
        )  # fmt: skip

    def on_fit_start(self) -> None:
        self.vectors.to(self.device)

    def frames(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, d) and their numbers (B,), of which those of waves (B, n) are computed."""
        if speech.ndim == 3:
            return speech, lengths
        waves = [wave[:samples] for wave, samples in zip(speech, lengths.tolist(), strict=True)]
        return self.vectors.frames(waves, speech.shape[1])

    def losses(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """All losses over the batches of all processes; "loss" is the total."""
        options = self.config.model.sequence
        states = self.head(*self.frames(batch.speech, batch.lengths))                         # (B, K, D)
        audio, text, ids = (gather_rows(self, one) for one in (states, batch.states, batch.text))
        return alignment_losses(
            audio, text, temperature=options.temperature, symmetric=True,
            lambda_contrastive=options.lambda_contrastive, lambda_cos=options.lambda_cos,
            lambda_mse=options.lambda_mse, false_negatives=same_text(ids, ids),
        )  # fmt: skip

    def training_step(self, batch: SequenceBatch, batch_index: int) -> Tensor:
        with seeded(step_generator(self.config.train.random_seed, batch_index, self.global_rank), self.device):
            losses = self.losses(batch)
        self.log_losses("train", losses, len(batch.text))
        return losses["loss"]

    def validation_step(self, batch: SequenceBatch, batch_index: int) -> None:
        self.log_losses("val", self.losses(batch), len(batch.text))

    @torch.no_grad()
    def on_validation_epoch_end(self) -> None:
        """Pictures of a few validation recordings in TensorBoard; Stable Diffusion is not kept in memory."""
        if not previews.is_due(self):
            return
        data: SpeechTexts = self.trainer.datamodule.data.valid  # type: ignore[attr-defined]
        clips = [data.speech(int(data.windows.first[clip])) for clip in range(min(previews.COUNT, len(data)))]
        if clips:
            speech, lengths = (torch.stack(one).to(self.device) for one in zip(*clips, strict=True))
            log_preview(self, self.head(*self.frames(speech, lengths)).float())

    def pipeline(self) -> AudioToImagePipeline:
        """The model in its present state, ready to draw; loads Stable Diffusion anew, which is not kept in memory."""
        sd = frozen_networks.frozen_stable_diffusion(self.config.model.stable_diffusion)
        return _pipeline(self, self.head, sd)

    def frozen_weights(self) -> list[Tensor]:
        """The speech encoder and the text encoder."""
        return [*self.vectors.network.parameters(), *self.frozen["text_encoder"].parameters()]

    def export(self, folder: Path) -> None:
        _export(self, folder, self.head, Head.sequence)


def _pipeline(task: Any, head: TokenHead | SequenceHead, sd: Any) -> AudioToImagePipeline:
    """The model of a task in its present state, ready to draw."""
    pipe = AudioToImagePipeline(WavyEncoder(task.frozen["vectors"], head, task.config.model.prompt), sd.to(task.device))
    pipe.guidance_scale = task.config.model.guidance_scale
    return pipe


def _export(task: Any, folder: Path, head: TokenHead | SequenceHead, name: Head) -> None:
    """Write the head, the speech encoder, and the names of the frozen networks; copies those of stage 1's folder."""
    model, stage1, source = task.config.model, task.frozen["settings"], task.frozen["folder"]
    settings: dict[str, Any] = {"stage": str(Stage.head), "head": str(name), "stable_diffusion": model.stable_diffusion}
    settings |= {"prompt": model.prompt, "guidance_scale": model.guidance_scale}
    for part in (HUBERT, IMAGE_ENCODER):
        if (source / part).is_dir():  # stage 1 trained it
            shutil.copytree(source / part, folder / part, dirs_exist_ok=True)
        settings[part] = part if (source / part).is_dir() else source_of(source, stage1, part)
    save(folder, task.frozen["vectors"].speech_encoder, settings, head)

