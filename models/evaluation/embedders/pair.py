"""Two embedders that share a space: one hears, the other sees (Wav2CLIP and CLIP)."""

import numpy as np
from PIL.Image import Image
from torch import Tensor

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.utils.errors import UserError


class PairEmbedder(Embedder):
    """Sounds by one, pictures by the other, texts by the picture's if it reads them, else by the sound's.

    That both were trained into one space is the caller's word: here only the widths are compared.

    Raises:
        UserError: one does not take what it is here for, or their widths differ.
    """

    def __init__(self, ears: Embedder, eyes: Embedder) -> None:
        ears.require("sounds")
        eyes.require("pictures")
        if ears.dim != eyes.dim:
            raise UserError(
                f"embedder pair: {ears.name} gives {ears.dim} numbers, {eyes.name} {eyes.dim}: no space in common"
            )
        self.ears, self.eyes = ears, eyes
        self.reader = next((one for one in (eyes, ears) if "texts" in one.takes), None)
        self.takes = ("sounds", "pictures", "texts") if self.reader else ("sounds", "pictures")
        self.name, self.dim = f"pair:{ears.name}+{eyes.name}", ears.dim
        self.sample_rate, self.window, self.ragged = ears.sample_rate, ears.window, ears.ragged
        self.labels = ears.labels if ears.labels == eyes.labels else ()
        self.unit = ears.unit

    def _hear(self, waves: list[np.ndarray]) -> Features:
        return self._told(self.ears._hear(waves))

    def _look(self, pictures: list[Image]) -> Features:
        return self._told(self.eyes._look(pictures))

    def _read(self, texts: list[str]) -> Tensor:
        assert self.reader is not None
        return self.reader._read(texts)

    def _told(self, found: Features) -> Features:
        """Without logits where the two know other classes."""
        return found if self.labels else Features(found.embeddings, None)
