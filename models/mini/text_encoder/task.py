"""Training of the miniature text encoder: read kinds, counts, attributes and their order out of its states."""

from pathlib import Path

import torch
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

from sonolume.config.mini.text_encoder import Config, TextEncoderConfig
from sonolume.models.mini.reading_task import ReadingTask
from sonolume.preprocessors.miniworld import WORLD

MAX_BYTES = 512  # of one text, as T5


def build(config: TextEncoderConfig) -> T5EncoderModel:
    """A T5 encoder (gated GELU, relative positions) on ByT5's 384 tokens, with fresh weights."""
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


class Task(ReadingTask):
    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.train.random_seed)
        width = config.model.text_encoder.d_model
        super().__init__(build(config.model.text_encoder), width, config.train)

    def export(self, folder: Path) -> None:
        """transformers' T5EncoderModel and ByT5Tokenizer in one folder."""
        self.encoder.save_pretrained(folder)
        ByT5Tokenizer(model_max_length=MAX_BYTES).save_pretrained(folder)
