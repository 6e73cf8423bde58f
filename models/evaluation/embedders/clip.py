"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): pictures and captions in one space."""

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.pretrained import Source, load_model, load_part, pooled


class ClipEmbedder(Embedder):
    """Projected features of any length; cosines take care of that."""

    takes = ("pictures", "texts")
    model_class = CLIPModel

    def __init__(self, source: Source, device: torch.device | str = "cpu") -> None:
        self.model, self.name = load_model(self.model_class, source, device)
        self.processor = load_part(AutoImageProcessor, source, backend="pil")  # torchvision is no dependency of ours
        self.tokenizer = load_part(AutoTokenizer, source)
        self.device, self.dim = device, self._width()
        self.longest = self.model.config.text_config.max_position_embeddings

    def _width(self) -> int:
        return self.model.config.projection_dim

    def _look(self, pictures: list[Image]) -> Features:
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values  # (B, 3, H, W)
        return Features(pooled(self.model.get_image_features(pixel_values=pixels.to(self.device))), None)

    def _read(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt")
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        return pooled(self.model.get_text_features(input_ids=ids, attention_mask=mask))


class SiglipEmbedder(ClipEmbedder):
    """Trained on texts padded to the longest, without a mask: they are given so."""

    model_class = SiglipModel

    def _width(self) -> int:
        return self.model.config.text_config.projection_size

    def _read(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.longest, return_tensors="pt"
        )
        return pooled(self.model.get_text_features(input_ids=tokens.input_ids.to(self.device)))
