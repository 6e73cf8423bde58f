"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): pictures and captions in one space."""

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

from sonolume.models.evaluation.embedders.base import Embedder, Features
from sonolume.models.evaluation.embedders.pretrained import Source, load_model, load_processor, pooled

KINDS = {"clip": ("ID_OR_FOLDER", r".+"), "siglip": ("ID_OR_FOLDER", r".+")}


class ClipEmbedder(Embedder):
    """Projected features, not normalised; cosines do that."""

    takes = ("pictures", "texts")

    def __init__(self, source: Source, device: torch.device | str) -> None:
        is_clip = source.kind == "clip"
        self.model, self.name = load_model(CLIPModel if is_clip else SiglipModel, source, device)
        self.processor = load_processor(AutoImageProcessor, source, backend="pil")  # torchvision is no dependency
        self.tokenizer = load_processor(AutoTokenizer, source)
        text = self.model.config.text_config
        self.device, self.dim = device, self.model.config.projection_dim if is_clip else text.projection_size
        self.max_length = text.max_position_embeddings
        # SigLIP was trained on texts padded to the maximum length, without a mask
        self.padding: bool | str = True if is_clip else "max_length"

    def image_features(self, pictures: list[Image]) -> Features:
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values  # (B, 3, H, W)
        return Features(pooled(self.model.get_image_features(pixel_values=pixels.to(self.device))), None)

    def text_features(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            texts, padding=self.padding, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        mask = {"attention_mask": tokens.attention_mask} if self.padding is True else {}
        return pooled(self.model.get_text_features(input_ids=tokens.input_ids, **mask))


def load(kind: str, source: str, device: torch.device | str) -> Embedder:
    return ClipEmbedder(Source.parse(kind, source), device)
