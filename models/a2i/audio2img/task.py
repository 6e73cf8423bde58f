"""Training of audio2img: a Wav2Vec2-BERT learns the states of a frozen text encoder; no U-Net is in memory.

B items, T features of F values, K states of width D, N texts of all processes, M further texts.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

from sonolume.config.a2i.audio2img import Config, Head, LossName
from sonolume.models import lightning_internals, pretrained, previews
from sonolume.models.a2i import frozen as frozen_networks
from sonolume.models.a2i.audio2img import attention
from sonolume.models.a2i.audio2img.data import Batch, SoundTexts
from sonolume.models.a2i.audio2img.encoder import (
    STRIDE,
    Audio2ImgEncoder,
    FeatureExtractor,
    check_model,
    load_model,
    save,
    states_of,
)
from sonolume.models.a2i.pipeline import AudioToImagePipeline
from sonolume.models.a2i.preview_pictures import log_preview
from sonolume.models.training import Frozen, RecipeTask, gather_rows, seeded, step_generator
from sonolume.modules.sequence_alignment import AlignmentMetrics, alignment_losses, same_text
from sonolume.utils import paths
from sonolume.utils.errors import UserError
from sonolume.utils.text import message

DROPOUTS = (
    "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "conformer_conv_dropout",
)  # fmt: skip


def load_frozen(config: Config) -> Frozen:
    """Load the networks that the config's head needs.

    For the head sequence, these are the text encoder of Stable Diffusion with its tokenizer; the settings of the
    encoder of sounds are read, too.
    """
    if config.model.head is Head.attention:
        return attention.load_frozen(config)
    tokenizer, text_encoder = frozen_networks.frozen_text_encoder(config.model.stable_diffusion)
    settings = encoder_settings(config, text_encoder.config.hidden_size)
    extract = FeatureExtractor(settings.feature_projection_input_dim // STRIDE, config.preprocess.input_length)
    count = states_of(extract.length, settings)
    limit = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    if not 1 <= count < limit:
        raise UserError(f"preprocess.input_length {config.preprocess.input_length:g} and the adapter make {count} "
                        f"states, the text encoder of {config.model.stable_diffusion} has 1 to {limit - 1}: change "
                        "input_length, model.adapter_stride or num_adapter_layers")  # fmt: skip
    return Frozen(tokenizer=tokenizer, text_encoder=text_encoder, extract=extract, settings=settings, num_states=count)


def build_task(config: Config, frozen: Frozen) -> RecipeTask:
    """Build the task of the config's head."""
    return attention.AttentionTask(config, frozen) if config.model.head is Head.attention else Task(config, frozen)


def encoder_settings(config: Config, width: int) -> Wav2Vec2BertConfig:
    """Settings of the encoder: those of `model.wav2vec2_bert`, or of a fresh one, with the adapter of the config.

    Raises:
        UserError: no Wav2Vec2-BERT, its adapter is another one, or it has fewer layers than `model.freeze_layers`.
    """
    model = config.model
    shape = {
        "adapter_kernel_size": model.adapter_kernel_size, "adapter_stride": model.adapter_stride,
        "num_adapter_layers": model.num_adapter_layers, "output_hidden_size": width,
    }  # fmt: skip
    adapter = {"add_adapter": True, "layerdrop": model.layerdrop, **shape}
    if model.wav2vec2_bert:
        settings = _stored_settings(model.wav2vec2_bert, shape, adapter)
    else:
        sizes = asdict(model.encoder)
        dropouts = dict.fromkeys(DROPOUTS, sizes.pop("dropout"))
        settings = Wav2Vec2BertConfig(**sizes, **dropouts, apply_spec_augment=False, mask_time_prob=0.0, **adapter)
    layers = settings.num_hidden_layers
    if model.freeze_layers > layers:
        raise UserError(f"model.freeze_layers {model.freeze_layers}: the encoder has {layers} layers")
    return settings


def _stored_settings(source: str, shape: dict[str, int], adapter: dict[str, Any]) -> Wav2Vec2BertConfig:
    """Read the settings of `model.wav2vec2_bert` and set the adapter; one that is stored must have the same shape."""
    where, name = paths.locate(source, "model.wav2vec2_bert"), f"model.wav2vec2_bert {source}"
    check_model(where, name)
    try:
        stored = Wav2Vec2BertConfig.from_pretrained(where)
    except pretrained.UNREADABLE as error:
        raise UserError(f"{name} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    wrong = [f"{key} {getattr(stored, key)}, not {value}" for key, value in shape.items()
             if stored.add_adapter and getattr(stored, key) != value]  # fmt: skip
    if wrong:
        raise UserError(f"{name}: its adapter has {', '.join(wrong)}: change the config (the width is that of "
                        "model.stable_diffusion), or start from an encoder without an adapter")  # fmt: skip
    return Wav2Vec2BertConfig.from_pretrained(where, **adapter)


def build_encoder(config: Config, settings: Wav2Vec2BertConfig) -> Wav2Vec2BertModel:
    """Build the encoder that is trained: fresh, or that of `model.wav2vec2_bert`, with a fresh adapter if it has none.

    Raises:
        UserError: the weights do not fit.
    """
    model = config.model
    if model.wav2vec2_bert:
        where = paths.locate(model.wav2vec2_bert, "model.wav2vec2_bert")
        encoder = load_model(where, f"model.wav2vec2_bert {model.wav2vec2_bert}", fresh=("adapter.",), config=settings)
    else:
        encoder = Wav2Vec2BertModel(settings)
    encoder.requires_grad_(True).train()  # Lightning keeps the mode, which is evaluation after loading
    if model.freeze_layers:
        for part in (encoder.feature_projection, *encoder.encoder.layers[: model.freeze_layers]):
            part.requires_grad_(False)
    if not settings.apply_spec_augment and hasattr(encoder, "masked_spec_embed"):  # not used
        encoder.masked_spec_embed.requires_grad_(False)
    assert encoder.adapter is not None
    encoder.adapter.layerdrop = 0.0  # a skipped layer of the adapter would double the number of states
    if model.gradient_checkpointing:
        encoder.gradient_checkpointing_enable()
    return encoder


class Task(RecipeTask):
    frozen_keys = ("stable_diffusion",)

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        torch.manual_seed(config.train.random_seed)
        self.encoder = build_encoder(config, frozen["settings"])
        self.metrics = AlignmentMetrics()
        _report_size(self.encoder)

    def setup(self, stage: str) -> None:
        if self.config.model.layerdrop:  # a process skips other layers than another one
            lightning_internals.allow_unused_parameters(self.trainer)

    def on_fit_start(self) -> None:
        loss = self.config.model.loss
        if self.config.train.batch_size * self.trainer.world_size == 1 and not loss.negative_texts:
            message("train.batch_size is 1, and the contrastive loss of one sound is 0: use a larger batch, or "
                    "model.loss.negative_texts")  # fmt: skip
        self.center: Tensor | None = None
        if loss.center_targets:
            center = np.mean(self.data("train").states, axis=0, dtype=np.float32)             # (K, D)
            self.center = torch.from_numpy(center).to(self.device)

    def data(self, split: str) -> SoundTexts:
        """The data set of the running training."""
        return getattr(self.trainer.datamodule.data, split)  # type: ignore[attr-defined]

    def losses(self, batch: Batch, negatives: Sequence[int] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """States (B, K, D) of the sounds, and all losses over the batches of all processes; "loss" is the total.

        Args:
            negatives: numbers of further texts of the training data.
        """
        loss = self.config.model.loss
        states = self.encoder(batch.features, attention_mask=batch.mask).last_hidden_state    # (B, K, D)
        audio, text, ids, mask = (gather_rows(self, one) for one in (states, batch.states, batch.text, batch.mask))
        others = torch.tensor(list(negatives), dtype=torch.long, device=ids.device)           # (M,)
        more = self.data("train").text_states(negatives).to(text.device) if len(others) else None  # (M, K, D)
        same = same_text(ids, torch.cat([ids, others]))                                       # (N, N + M)
        same[:, : len(ids)] &= loss.mask_duplicates
        found = alignment_losses(
            audio, text, temperature=loss.temperature, symmetric=loss.name is LossName.symmetric,
            lambda_cos=loss.lambda_cos, lambda_mse=loss.lambda_mse, center=self.center, negatives=more,
            false_negatives=same, positions=self._positions(mask) if loss.mask_padding else None,
        )  # fmt: skip
        return states, found

    def _positions(self, mask: Tensor) -> Tensor:
        """Mark the states (B, K) that belong to the sound, not to its padding, given the mask (B, T) of features."""
        lengths = torch.tensor([max(1, states_of(int(count), self.encoder.config)) for count in mask.sum(dim=1)])
        return torch.arange(self.frozen["num_states"], device=mask.device) < lengths.to(mask.device)[:, None]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        seed, count = self.config.train.random_seed, self.config.model.loss.negative_texts
        random = step_generator(seed, batch_index)
        negatives = torch.randint(len(self.data("train").texts), (count,), generator=random).tolist()
        with seeded(step_generator(seed, batch_index, self.global_rank), self.device):
            _, losses = self.losses(batch, negatives)
        self.log_losses("train", losses, len(batch.text))
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        states, losses = self.losses(batch)
        with torch.autocast(self.device.type, enabled=False):
            self.metrics.update(states, batch.states, batch.text)
        self.log_losses("val", losses, len(batch.text))

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()}, sync_dist=True)
        self.metrics = AlignmentMetrics()
        if self.config.model.preview and previews.is_due(self):
            self._log_preview()

    @torch.no_grad()
    def _log_preview(self) -> None:
        """Pictures of a few validation sounds in TensorBoard."""
        data = self.data("valid")
        clips = [data.audio(int(data.windows.first[clip])) for clip in range(min(previews.COUNT, len(data)))]
        features, mask = (torch.stack(one).to(self.device) for one in zip(*clips, strict=True))  # (N, T, F), (N, T)
        log_preview(self, self.encoder(features, attention_mask=mask).last_hidden_state.float())

    def pipeline(self) -> AudioToImagePipeline:
        """The model in its present state, ready to draw; loads Stable Diffusion anew, which is not kept in memory."""
        config, sd = self.config, frozen_networks.frozen_stable_diffusion(self.config.model.stable_diffusion)
        encoder = Audio2ImgEncoder(self.encoder, config.model.prompt, config.preprocess.input_length)
        pipe = AudioToImagePipeline(encoder, sd.to(self.device))
        pipe.guidance_scale = config.model.guidance_scale
        return pipe

    def frozen_weights(self) -> Any:
        return self.frozen["text_encoder"].parameters()

    def export(self, folder: Path) -> None:
        """Write transformers' folder of the encoder, and the name of its Stable Diffusion."""
        model = self.config.model
        names = ("stable_diffusion", "prompt", "guidance_scale", "text_mask")
        settings = {name: getattr(model, name) for name in names}
        save(folder, self.encoder, self.frozen["extract"], settings | {"window": self.config.preprocess.input_length})


@rank_zero_only
def _report_size(encoder: torch.nn.Module) -> None:
    """Print what the training takes, so that nobody learns it from a failure."""
    weights = sum(weight.numel() for weight in encoder.parameters())
    trained = sum(weight.numel() for weight in encoder.parameters() if weight.requires_grad)
    memory, saved = 4 * weights + 12 * trained, 4 * weights + 8 * trained
    message(f"{weights / 1e6:,.1f} M weights, {trained / 1e6:,.1f} M of them trained: {memory / 1e9:.2f} GB of memory "
            f"without activations (weights, gradients, AdamW), {saved / 1e9:.2f} GB of disk a checkpoint")  # fmt: skip
