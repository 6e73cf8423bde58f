"""Speech recognition by models of transformers, for the transcript cascade: speech -> text -> picture.

B recordings, n samples of a wave, T frames, V letters or word pieces.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torchmetrics.functional.text import char_error_rate
from tqdm import tqdm

from sonolume.models import pretrained
from sonolume.utils import paths
from sonolume.utils.audio import batches_by_length
from sonolume.utils.errors import UserError

SEQUENCE_TYPES = ("whisper", "moonshine", "speech_to_text")  # model types that generate word pieces one by one
CTC_TYPES = (  # and those that spell each frame, by a head for CTC
    "hubert", "wav2vec2", "wavlm", "wav2vec2-bert", "wav2vec2-conformer", "data2vec-audio", "sew", "sew-d", "unispeech",
    "unispeech-sat",
)  # fmt: skip
REMEDY = "a folder or a hub id of a speech recogniser, such as openai/whisper-base"
BATCH_SIZE = 8
SPECIAL = re.compile(r"<[^<>]*>")  # tokens of CTC that are no letters, such as <unk>


class Recogniser:
    """A speech recogniser with its feature extractor and tokenizer, loaded on the CPU.

    Args:
        source: folder or hub id; `key` is its flag, for messages.

    Raises:
        UserError: missing, damaged, or no speech recogniser.
    """

    def __init__(self, source: str, key: str = "--asr") -> None:
        self.where, name = paths.locate(source, key, REMEDY, flag=True), f"{key} {source}"
        kind = pretrained.model_settings(self.where, name, (*SEQUENCE_TYPES, *CTC_TYPES))["model_type"]
        self.is_ctc = kind in CTC_TYPES
        loader: Any = transformers.AutoModelForCTC if self.is_ctc else transformers.AutoModelForSpeechSeq2Seq
        self.model: Any = pretrained.load_model(loader, self.where, name)
        self.processor = pretrained.load_processor(transformers.AutoProcessor, self.where, name)
        if not all(hasattr(self.processor, part) for part in ("tokenizer", "feature_extractor")):
            raise UserError(f"{name}: has no tokenizer and feature extractor of a speech recogniser: {REMEDY}")
        self.sample_rate: int = self.processor.feature_extractor.sampling_rate

    @torch.no_grad()
    def transcribe(self, waves: Sequence[np.ndarray]) -> list[str]:
        """Write down what is said in waves (n,) at `sample_rate`; "" where nothing is recognised."""
        texts: dict[int, str] = {}
        # recordings of other lengths are never padded for CTC, so that a transcript does not depend on its batch
        batches = batches_by_length([len(wave) for wave in waves], BATCH_SIZE, ragged=not self.is_ctc)
        with tqdm(total=len(waves), desc="transcribe", unit="recording", leave=None, disable=len(waves) < 2) as bar:
            for numbers in batches:
                found = self._decode(self._token_ids([waves[number] for number in numbers]))
                texts |= {number: " ".join(text.split()) for number, text in zip(numbers, found, strict=True)}
                bar.update(len(numbers))
        return [texts[number] for number in range(len(waves))]

    def _token_ids(self, waves: list[np.ndarray]) -> Tensor:
        """Ids (B, T) of the most likely letters or word pieces."""
        more: dict[str, Any] = {"sampling_rate": self.sample_rate, "return_attention_mask": True}
        if self.is_ctc:
            more["padding"] = True
        inputs = self.processor(waves, **more, return_tensors="pt").to(self.model.device)
        if self.is_ctc:
            return self.model(**inputs).logits.argmax(dim=-1)              # (B, T)
        return self.model.generate(**inputs, do_sample=False, num_beams=1)

    def _decode(self, ids: Tensor) -> list[str]:
        """Texts of ids (B, T)."""
        if not self.is_ctc:
            return self.processor.batch_decode(ids, skip_special_tokens=True)
        # a skipped blank would no longer separate two equal letters
        return [SPECIAL.sub(" ", text) for text in self.processor.batch_decode(ids)]


def letters(text: str) -> str:
    """Reduce a text to what is spoken: lower case, letters and digits of any script, single spaces."""
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"['\u2019]", "", text.casefold())))


def count_wrong_letters(found: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """Wrong letters, and letters of the wanted text, of each pair of texts -> (N, 2) float64; without case and marks.

    Each wanted text must have a letter.
    """
    pairs = list(zip(map(letters, found), map(letters, wanted), strict=True))
    rows = [[round(float(char_error_rate([one], [other])) * len(other)), len(other)] for one, other in pairs]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def error_rate(counts: Tensor) -> float:
    """Letter error rate of several texts, from the counts (N, 2) of `count_wrong_letters`."""
    wrong, total = counts.sum(dim=0).tolist()
    return wrong / total
