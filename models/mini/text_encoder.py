"""mini/text_encoder: train a byte-level T5 encoder on captions of the miniature world, for text to audio."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from sonolume.config.mini.text_encoder import Config
from sonolume.models.mini.caption_task import CaptionTask, caption_data
from sonolume.models.mini.scene_data import preprocess as preprocess
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.captions import caption
from sonolume.preprocessors.miniworld.scene import Scene

MAX_BYTES = 512  # longest text, as T5's


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


class Task(CaptionTask):
    """Train a T5 encoder (gated GELU, relative positions) for ByT5's 384 tokens."""

    def __init__(self, config: Config, frozen: Frozen) -> None:
        model = config.model.text_encoder
        t5 = T5Config(
            vocab_size=384, **asdict(model), d_kv=model.d_model // model.num_heads, dropout_rate=0.0,
            feed_forward_proj="gated-gelu", relative_attention_max_distance=64,
        )  # fmt: skip
        t5.world = WORLD
        super().__init__(T5EncoderModel(t5), model.d_model, config)

    def export(self, folder: Path) -> None:
        """Write transformers' T5EncoderModel and ByT5Tokenizer into one folder."""
        self.encoder.save_pretrained(folder)
        ByT5Tokenizer(model_max_length=MAX_BYTES).save_pretrained(folder)
