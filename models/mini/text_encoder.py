"""mini/text_encoder: train a byte-level T5 encoder on captions of the miniature world, for text to audio."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from sonolume.config.mini.text_encoder import Config, TextEncoderConfig
from sonolume.models.mini.caption_task import CaptionTask, caption_data
from sonolume.models.mini.scene_data import skip_preprocessing
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.captions import caption
from sonolume.preprocessors.miniworld.scene import Scene

MAX_BYTES = 512  # longest text, as T5's

preprocess = skip_preprocessing


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `Captions`."""
    return caption_data(config.miniworld, make_text, tokenize)


def make_text(scene: Scene, epoch: int, held_out: bool) -> str:
    """Word a caption of a scene."""
    return caption(scene, np.random.default_rng([scene.seed, epoch]), held_out)


def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
    """Bytes (B, L), padded to the longest text, and their mask."""
    tokens = ByT5Tokenizer()(texts, padding=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def build(config: TextEncoderConfig) -> T5EncoderModel:
    """Build a T5 encoder (gated GELU, relative positions) for ByT5's 384 tokens, with fresh weights."""
    t5 = T5Config(
        vocab_size=384,
        d_model=config.d_model,
        d_kv=config.d_model // config.num_heads,
        d_ff=config.d_ff,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        relative_attention_max_distance=64,
    )
    t5.world = WORLD
    return T5EncoderModel(t5)


class Task(CaptionTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        torch.manual_seed(config.train.random_seed)
        model = config.model.text_encoder
        super().__init__(build(model), model.d_model, config)

    def export(self, folder: Path) -> None:
        """Write transformers' T5EncoderModel and ByT5Tokenizer into one folder."""
        self.encoder.save_pretrained(folder)
        ByT5Tokenizer(model_max_length=MAX_BYTES).save_pretrained(folder)
