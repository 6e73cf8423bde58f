"""Two embedders that share a space, one of sounds and one of pictures (Wav2CLIP and CLIP)."""

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.load import load as load_embedder
from sonolume.utils.errors import UserError

KINDS = {"pair": ("SOUND_SPEC|PICTURE_SPEC in quotes", r"(?P<sound_embedder>[^|]+)\|(?P<picture_embedder>[^|]+)")}


class PairEmbedder(Embedder):
    """Sounds by one embedder, pictures by the other, texts by the picture embedder if it takes them, else by the other.

    That both were trained into one space is the caller's claim: only the widths are checked.

    Raises:
        UserError: one does not take its medium, or their widths differ.
    """

    def __init__(self, sound: Embedder, picture: Embedder) -> None:
        sound.require("sounds")
        picture.require("pictures")
        if sound.dim != picture.dim:
            widths = f"{sound.name} has width {sound.dim}, {picture.name} {picture.dim}"
            raise UserError(f"embedder pair: {widths}: not one space")
        self.sound, self.picture = sound, picture
        self.text = next((one for one in (picture, sound) if "texts" in one.takes), None)
        self.takes = ("sounds", "pictures", "texts") if self.text else ("sounds", "pictures")
        self.name, self.dim = f"pair:{sound.name}+{picture.name}", sound.dim
        self.sample_rate, self.window, self.ragged = sound.sample_rate, sound.window, sound.ragged
        self.labels = sound.labels if sound.labels == picture.labels else ()
        self.unit = sound.unit

    def audio_features(self, waves: list[np.ndarray]) -> Features:
        return self._comparable(self.sound.audio_features(waves))

    def image_features(self, pictures: list[Image]) -> Features:
        return self._comparable(self.picture.image_features(pictures))

    def text_features(self, texts: list[str]) -> Tensor:
        assert self.text is not None
        return self.text.text_features(texts)

    def _comparable(self, features: Features) -> Features:
        """Drop the logits if the two have different classes."""
        return features if self.labels else Features(features.embeddings, None)


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    sound, _, picture = source.partition("|")
    return PairEmbedder(load_embedder(sound, device), load_embedder(picture, device))
