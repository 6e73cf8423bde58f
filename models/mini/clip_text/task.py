"""Training of the miniature CLIP text encoder: read kinds, counts, attributes and their order out of its states."""

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sonolume.config.mini.clip_text import Config, ModelConfig
from sonolume.models.mini.clip_text import tokenizer
from sonolume.models.mini.reading_task import ReadingTask
from sonolume.preprocessors.miniworld import WORLD


def build(config: ModelConfig, tokens: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder with fresh weights."""
    vocabulary = tokens.get_vocab()
    end = vocabulary[tokenizer.END]
    clip = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        projection_dim=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        max_position_embeddings=config.max_tokens,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary[tokenizer.START],
        eos_token_id=end,
        pad_token_id=end,
    )
    clip.world = WORLD
    return CLIPTextModel(clip)


class Task(ReadingTask):
    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.train.random_seed)
        tokens = tokenizer.build(config.model.max_tokens)
        super().__init__(build(config.model, tokens), config.model.hidden_size, config.train)
        self.tokens = tokens

    def export(self, folder: Path) -> None:
        """transformers' CLIPTextModel and CLIPTokenizer in one folder."""
        self.encoder.save_pretrained(folder)
        tokenizer.save(self.tokens, folder)
