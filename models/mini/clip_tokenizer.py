"""A CLIP tokenizer whose byte-pair merges make one token of every word in captions of the miniature world.

Any other text is split into shorter pieces, at worst into bytes.
"""

import re
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sonolume.preprocessors.miniworld import captions
from sonolume.utils import files

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"  # suffix of the last piece of a word
Pair = tuple[str, str]


def words() -> list[str]:
    """Every word of captions and prompts, lower case, sorted."""
    texts = [noun for noun, _ in captions.SUBJECTS.values()]
    texts += [verb for _, verbs in captions.SUBJECTS.values() for verb in verbs]
    texts += [*captions.NAMES.values(), *captions.ING.values(), *captions.PROMPTS]
    texts += [noun for nouns in captions.OTHER_NOUNS.values() for noun in nouns]
    for table in (captions.PITCH, captions.LOUDNESS, captions.COUNTS, captions.DIRECTIONS, captions.TRAIN):
        texts += [text for group in table.values() for text in group]
    plain = re.sub(r"\{.*?\}", " ", " ".join([*texts, "is an"]))
    return sorted(set(re.findall(r"[a-z]+", plain.lower())))


def merges(texts: list[str]) -> list[Pair]:
    """Byte-pair merges (Sennrich et al. 2016), the most frequent first, until each word is one piece."""
    pieces = [[*text[:-1], text[-1] + WORD_END] for text in texts]
    found: list[Pair] = []
    while any(len(word) > 1 for word in pieces):
        counts = Counter(pair for word in pieces for pair in zip(word, word[1:], strict=False))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        found.append(best)
        pieces = [_merge(word, best) for word in pieces]
    return found


def _merge(word: list[str], pair: Pair) -> list[str]:
    result: list[str] = []
    for piece in word:
        if result and (result[-1], piece) == pair:
            result[-1] += piece
        else:
            result.append(piece)
    return result


def build(max_tokens: int) -> CLIPTokenizer:
    """Build the tokenizer, always the same one. `max_tokens` includes the start and end tokens."""
    pairs, letters = merges(words()), list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(a + b for a, b in pairs), START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocabulary, pairs, model_max_length=max_tokens)  # type: ignore[arg-type]  # takes pairs only


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save as transformers does, and also as vocab.json and merges.txt, which every CLIP tokenizer can load."""
    tokenizer.save_pretrained(folder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    files.write_json(folder / "vocab.json", dict(vocabulary))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges(words()))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
