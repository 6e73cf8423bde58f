"""mini/clip_text: train a CLIP text encoder on captions and short prompts, for the miniature Stable Diffusion.

The byte-pair merges of its tokenizer make one token of every word in captions of the miniature world; any other text is
split into shorter pieces, at worst into bytes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sonolume.config.mini.clip_text import Config
from sonolume.models.mini.text_encoder import CaptionTask, caption_data
from sonolume.models.training import Frozen, TrainingData
from sonolume.preprocessors.miniworld import WORLD, captions
from sonolume.preprocessors.miniworld.captions import caption, prompt
from sonolume.preprocessors.miniworld.scene import Scene
from sonolume.utils import files

PROMPT_SHARE = 0.25  # of single events that get a prompt such as "a photo of a dog" instead of a caption
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"  # suffix of the last piece of a word


def training_data(config: Config, frozen: Frozen) -> TrainingData:
    """Batches of `Captions`."""
    tokenizer = build_tokenizer(config.model.max_tokens)
    return caption_data(config.miniworld, make_text, partial(tokenize, tokenizer=tokenizer))


def make_text(scene: Scene, number: int, held_out: bool) -> str:
    """Word a caption of a scene, or sometimes a prompt; `number`, such as the epoch, selects the wording."""
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
        model, tokenizer = config.model, build_tokenizer(config.model.max_tokens)
        start, end = (tokenizer.get_vocab()[token] for token in (START, END))
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
        save_tokenizer(self.tokenizer, folder)


def words(more_texts: Sequence[str] = ()) -> list[str]:
    """Every word of captions, prompts and `more_texts` (or their templates), lower case, sorted."""
    texts = [text for noun, verbs in captions.SUBJECTS.values() for text in (noun, *verbs)]
    texts += [*captions.NAMES.values(), *captions.ING.values(), *captions.PROMPTS]
    texts += [noun for nouns in captions.OTHER_NOUNS.values() for noun in nouns]
    for table in (captions.PITCH, captions.LOUDNESS, captions.COUNTS, captions.DIRECTIONS, captions.TRAIN):
        texts += [text for group in table.values() for text in group]
    plain = re.sub(r"\{.*?\}", " ", " ".join([*texts, *more_texts, "is an"]))
    return sorted(set(re.findall(r"[a-z]+", plain.lower())))


def merges(texts: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016), the most frequent first, until each word is one piece."""
    return list(_merges(tuple(texts)))


@cache  # the same words again at every export
def _merges(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    split, found = [" ".join(text) + WORD_END for text in texts], []
    while counts := Counter(pair for word in split for pair in pairwise(word.split())):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        whole_pieces = re.compile(rf"(?<!\S){re.escape(' '.join(best))}(?!\S)")
        split = [whole_pieces.sub("".join(best), word) for word in split]
        found.append(best)
    return found


def build_tokenizer(max_tokens: int, more_texts: Sequence[str] = ()) -> CLIPTokenizer:
    """Build the tokenizer, always the same one.

    Args:
        max_tokens: length including the start and end tokens.
        more_texts: texts or templates whose words are one token each, besides those of captions.
    """
    pairs, letters = merges(words(more_texts)), list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(a + b for a, b in pairs), START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocabulary, pairs, model_max_length=max_tokens)  # type: ignore[arg-type]  # takes pairs only


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path, more_texts: Sequence[str] = ()) -> None:
    """Save as transformers does, and also as vocab.json and merges.txt, which every CLIP tokenizer can load.

    `more_texts` are those that the tokenizer was built with.
    """
    tokenizer.save_pretrained(folder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    files.write_json(folder / "vocab.json", dict(vocabulary))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges(words(more_texts)))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
