"""mini/clip_text: train a CLIP text encoder on captions and short prompts, for the miniature Stable Diffusion."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sonolume.config.mini.clip_text import Config
from sonolume.models.mini import clip_tokenizer
from sonolume.models.mini.caption_task import CaptionTask, caption_data
from sonolume.models.mini.scene_data import preprocess as preprocess
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors.miniworld import WORLD
from sonolume.preprocessors.miniworld.captions import caption, prompt
from sonolume.preprocessors.miniworld.scene import Scene

PROMPT_SHARE = 0.25  # of single events that get a prompt such as "a photo of a dog" instead of a caption


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `Captions`."""
    tokenizer = clip_tokenizer.build(config.model.max_tokens)
    return caption_data(config.miniworld, make_text, partial(tokenize, tokenizer=tokenizer))


def make_text(scene: Scene, number: int, held_out: bool) -> str:
    """Word a caption of a scene, or sometimes a prompt.

    Args:
        number: selects the wording, such as the epoch.
        held_out: use the wordings that training never contains.
    """
    rng = np.random.default_rng([scene.seed, number, 3])
    if not scene.relation and rng.uniform() < PROMPT_SHARE:
        return prompt(scene.events[0].kind, rng)
    return caption(scene, rng, held_out)


def tokenize(texts: list[str], tokenizer: CLIPTokenizer) -> tuple[Tensor, Tensor]:
    """Tokens (B, L) padded to the full length. As in Stable Diffusion the padding is not masked."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return tokens, torch.ones_like(tokens)


class Task(CaptionTask):
    def __init__(self, config: Config, frozen: Frozen) -> None:
        torch.manual_seed(config.train.random_seed)
        model, tokenizer = config.model, clip_tokenizer.build(config.model.max_tokens)
        start, end = tokenizer.convert_tokens_to_ids([clip_tokenizer.START, clip_tokenizer.END])
        clip = CLIPTextConfig(
            vocab_size=len(tokenizer), bos_token_id=start, eos_token_id=end, pad_token_id=end,
            hidden_size=model.hidden_size, projection_dim=model.hidden_size, intermediate_size=model.intermediate_size,
            num_hidden_layers=model.num_hidden_layers, num_attention_heads=model.num_attention_heads,
            max_position_embeddings=model.max_tokens, hidden_act="quick_gelu",
        )  # fmt: skip
        clip.world = WORLD
        super().__init__(CLIPTextModel(clip), model.hidden_size, config)
        self.tokenizer = tokenizer

    def export(self, folder: Path) -> None:
        """Write transformers' CLIPTextModel and CLIPTokenizer into one folder."""
        self.encoder.save_pretrained(folder)
        clip_tokenizer.save(self.tokenizer, folder)
