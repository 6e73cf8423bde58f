"""Stage 1: a speech encoder learns to be close to a frozen image encoder, by SpeechCLIP's masked contrastive loss.

B items, N hidden states of HuBERT, T frames, d width of HuBERT, J width of the common space.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from sonolume.config.s2i.wavy import Config, Stage
from sonolume.models import lightning_internals
from sonolume.models.s2i.wavy.data import SpeechBatch
from sonolume.models.s2i.wavy.encoder import IMAGE_NORM, save
from sonolume.models.s2i.wavy.hubert import Hubert
from sonolume.models.s2i.wavy.image_encoder import ImageEncoder
from sonolume.models.training import Frozen, RecipeTask, gather_rows, seeded, step_generator
from sonolume.modules.metrics.retrieval import recalls
from sonolume.modules.speech_clip import LARGEST_SCALE, SpeechEncoder, masked_contrastive_loss
from sonolume.utils.errors import UserError
from sonolume.utils.text import message


class AlignmentTask(RecipeTask):
    """Trains the network on top of HuBERT, and with `train` also HuBERT or the image encoder."""

    frozen_keys = ("speech_encoder.hubert", "image_encoder.model")

    def __init__(self, config: Config, frozen: Frozen) -> None:
        super().__init__(config, frozen)
        model = config.model
        self.hubert: Hubert = frozen["hubert"]
        self.images: ImageEncoder = frozen["images"]
        self.image_norm: float | None = None  # mean length of the vectors of the training pictures, where cached
        torch.manual_seed(config.train.random_seed)
        self.encoder = build(config, self.hubert, self.images)
        self.encoder.logit_scale.requires_grad_(model.loss.train_temperature)
        if model.speech_encoder.train:
            self.trained_hubert = _trainable(self.hubert.model)
        if model.image_encoder.train:
            self.trained_images = _trainable(self.images.model)
        _report_size(self)

    def setup(self, stage: str) -> None:
        if self.config.model.speech_encoder.train or self.config.model.image_encoder.train:
            lightning_internals.allow_unused_parameters(self.trainer)  # such as the pooler of a ViT

    def on_fit_start(self) -> None:
        if self.config.train.batch_size * self.trainer.world_size == 1:
            message("train.batch_size is 1, and the contrastive loss of one recording is 0: use a larger batch")
        self.hubert.to(self.device)  # frozen networks are no submodules
        self.images.to(self.device)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []  # of a validation: speech, images, numbers of pictures
        vectors = self.trainer.datamodule.data.train.vectors  # type: ignore[attr-defined]
        if vectors is not None:
            self.image_norm = float(np.linalg.norm(vectors, axis=1).mean())

    def embed(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, J) of the recordings and of the pictures of a batch."""
        speech, lengths = batch.speech, batch.lengths
        if speech.ndim == 2:
            waves = [wave[:samples] for wave, samples in zip(speech, lengths.tolist(), strict=True)]
            with torch.set_grad_enabled(self.config.model.speech_encoder.train and torch.is_grad_enabled()):
                speech, lengths = self.hubert.layers(waves, speech.shape[1])                # (B, N, T, d), (B,)
        images = self.images.vectors(batch.image) if batch.image.ndim == 4 else batch.image  # (B, V)
        return self.encoder(speech.float(), lengths), self.encoder.project_images(images)

    def losses(self, batch: SpeechBatch) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        """Unit vectors of the batch, and all losses over the batches of all processes; "loss" is the total."""
        options = self.config.model.loss
        speech, images = self.embed(batch)                                                  # (B, J) each
        a, b, ids = (gather_rows(self, one) for one in (speech, images, batch.group))
        settings: dict[str, Any] = {
            "ids": ids, "margin": options.margin, "decoupled": options.decoupled,
            "a_to_b": options.speech_to_image, "b_to_a": options.image_to_speech,
        }  # fmt: skip
        found = {"image": masked_contrastive_loss(a, b, self.encoder.scale, **settings)}
        total = found["image"]
        if options.text_weight:
            text = torch.nn.functional.normalize(gather_rows(self, batch.text).float(), dim=-1)
            found["text"] = masked_contrastive_loss(a, text, self.encoder.scale, **settings)
            total = total + options.text_weight * found["text"]
        return (speech, images), {"loss": total, **found}

    def training_step(self, batch: SpeechBatch, batch_index: int) -> Tensor:
        with torch.no_grad():  # as CLIP does: beyond its limit, the scale would get no gradient that leads back
            self.encoder.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        with seeded(step_generator(self.config.train.random_seed, batch_index, self.global_rank), self.device):
            _, losses = self.losses(batch)
        self.log_losses("train", losses, len(batch.picture))
        self.log("train/scale", self.encoder.scale.detach())
        return losses["loss"]

    def validation_step(self, batch: SpeechBatch, batch_index: int) -> None:
        (speech, images), losses = self.losses(batch)
        self.found.append((speech.float().cpu(), images.float().cpu(), batch.picture.cpu()))
        self.log_losses("val", losses, len(batch.picture))

    def on_validation_epoch_end(self) -> None:
        """Retrieval both ways among all validation recordings and their pictures."""
        if not self.found:
            return
        speech, images, numbers = (torch.cat(one) for one in zip(*self.found, strict=True))
        self.found = []
        for name, value in retrieval(speech, images, numbers).items():
            if not name.startswith("chance"):
                self.log(f"val/{name}", value, sync_dist=True)

    def frozen_weights(self) -> list[Tensor]:
        """Weights of the networks that are not trained."""
        model = self.config.model
        speech = [] if model.speech_encoder.train else self.hubert.model.parameters()
        images = [] if model.image_encoder.train else self.images.model.parameters()
        return [*speech, *images]

    def export(self, folder: Path) -> None:
        """Write the speech encoder, the networks that were trained with it, and the names of the others."""
        model = self.config.model
        settings: dict[str, Any] = {"stage": str(Stage.encoder), "hubert": model.speech_encoder.hubert,
                                    "image_encoder": model.image_encoder.model}  # fmt: skip
        if self.image_norm is not None:
            settings[IMAGE_NORM] = self.image_norm
        hubert = self.hubert if model.speech_encoder.train else None
        save(folder, self.encoder, settings, None, hubert, self.images if model.image_encoder.train else None)


def check_networks(config: Config, hubert: Hubert, images: ImageEncoder) -> None:
    """Check that a config fits the networks that it names.

    Raises:
        UserError: the attention heads do not divide the width of HuBERT, the image encoder needs a projector, or there
            are no vectors of captions in the space of the projector.
    """
    speech, pictures = config.model.speech_encoder, config.model.image_encoder
    if hubert.width % speech.num_heads:
        raise UserError(f"model.speech_encoder.num_heads {speech.num_heads} does not divide {hubert.width}, the width "
                        "of HuBERT")  # fmt: skip
    if not images.is_clip and not pictures.projection_dim:
        raise UserError(f"model.image_encoder.model {pictures.model}: its vectors are not made for comparisons, as "
                       "CLIP's are: give them a trained projector, model.image_encoder.projection_dim")  # fmt: skip
    if config.model.loss.text_weight:
        images.text_encoder()  # there must be one
        if pictures.projection_dim not in (0, images.width):
            raise UserError(f"model.image_encoder.projection_dim {pictures.projection_dim}: captions have vectors of "
                            f"width {images.width} here: choose that, or model.loss.text_weight 0")  # fmt: skip


def build(config: Config, hubert: Hubert, images: ImageEncoder) -> SpeechEncoder:
    """Build the speech encoder with fresh weights."""
    speech, pictures = config.model.speech_encoder, config.model.image_encoder
    width, projected = pictures.projection_dim or images.width, bool(pictures.projection_dim)
    return SpeechEncoder(
        hubert.num_states, hubert.width, width, speech.normalize_layers, speech.layers, speech.num_heads,
        speech.dropout, temperature=config.model.loss.temperature, image_size=images.width if projected else 0,
    )  # fmt: skip


def retrieval(speech: Tensor, images: Tensor, numbers: Tensor) -> dict[str, float]:
    """Retrieval by the cosine of unit vectors, as SpeechCLIP scores it.

    The vectors of a picture count once, and a picture's right answers are all of its recordings.

    Args:
        speech, images: (B, J); row i of both belong together.
        numbers: (B,) of the pictures.

    Returns:
        `recalls` of "speech_to_image" and "image_to_speech", and "mean_R@10".
    """
    distinct, first = numbers.unique(return_inverse=True)
    rows = torch.stack([(first == number).nonzero()[0, 0] for number in range(len(distinct))])  # (pictures,)
    similarity, right = speech @ images[rows].T, numbers[:, None] == distinct                   # (B, pictures)
    found = recalls(similarity, right, "speech_to_image") | recalls(similarity.T, right.T, "image_to_speech")
    return found | {"mean_R@10": (found["R@10_speech_to_image"] + found["R@10_image_to_speech"]) / 2}


def _trainable(network: Any) -> Any:
    """Turn a frozen network into a trained one; HuBERT's mask embedding is not used."""
    network.requires_grad_(True).train()
    if hasattr(network, "masked_spec_embed"):
        network.masked_spec_embed.requires_grad_(False)
    return network


@rank_zero_only
def _report_size(task: torch.nn.Module) -> None:
    """Print the number of trained weights."""
    trained = sum(weight.numel() for weight in task.parameters() if weight.requires_grad)
    message(f"{trained / 1e6:.2f} M weights are trained")
