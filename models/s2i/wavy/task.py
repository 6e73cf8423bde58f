"""Training of Wavy: the alignment of speech with pictures (stage 1), or a head into Stable Diffusion (stage 2)."""

from typing import Any

import torch

from sonolume.config.s2i.wavy import Config, Head, Stage
from sonolume.models.a2i import frozen as frozen_networks
from sonolume.models.a2i.loading import read_settings
from sonolume.models.s2i.wavy.alignment_task import AlignmentTask, check_networks
from sonolume.models.s2i.wavy.encoder import RECIPE, load_vectors
from sonolume.models.s2i.wavy.head_tasks import SequenceHeadTask, TokenHeadTask
from sonolume.models.s2i.wavy.hubert import load_hubert
from sonolume.models.s2i.wavy.image_encoder import load_image_encoder
from sonolume.models.training import Frozen, RecipeTask
from sonolume.utils import paths
from sonolume.utils.errors import UserError

STAGE_1 = "train stage 1 first (--config egs/s2i/wavy/encoder.json), or name the folder of a trained encoder"


def load_frozen(config: Config) -> Frozen:
    """Load the networks that the config's stage and head need.

    Raises:
        UserError: one is missing, damaged, or of another kind; or the head is not trained at all.
    """
    model = config.model
    if model.stage is Stage.encoder:
        hubert = load_hubert(model.speech_encoder.hubert, "model.speech_encoder.hubert")
        images = load_image_encoder(model.image_encoder.model, "model.image_encoder.model")
        check_networks(config, hubert, images)  # before features are cached
        return Frozen(hubert=hubert, images=images)
    if model.head is Head.image:
        raise UserError("model.head image is not trained: make its folder from that of stage 1 with "
                        "python bins/convert.py speech-ip-adapter ENCODER_FOLDER FOLDER")  # fmt: skip
    folder, settings = read_settings(paths.locate(model.encoder, "model.encoder", STAGE_1), [RECIPE], "model.encoder")
    vectors = load_vectors(folder, settings, torch.device("cpu"), torch.float32)
    vectors.network.eval().requires_grad_(False)
    found = Frozen(vectors=vectors, settings=settings, folder=folder)
    if model.head is Head.token:
        return Frozen(found, sd=frozen_networks.frozen_stable_diffusion(model.stable_diffusion))
    tokenizer, text_encoder = frozen_networks.frozen_text_encoder(model.stable_diffusion)
    limit = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    return Frozen(found, tokenizer=tokenizer, text_encoder=text_encoder, num_states=limit - 1)


def build_task(config: Config, frozen: Frozen) -> RecipeTask:
    """Build the task of the config's stage and head."""
    if config.model.stage is Stage.encoder:
        return AlignmentTask(config, frozen)
    kind: Any = TokenHeadTask if config.model.head is Head.token else SequenceHeadTask
    return kind(config, frozen)

