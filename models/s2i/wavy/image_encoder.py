"""Encoders of pictures for the alignment with speech: CLIP, or another pretrained vision transformer.

B pictures or texts, H x W pixels, V width of an image vector, J width of CLIP's common space.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import BatchEncoding

from sonolume.models import pretrained
from sonolume.utils import checkpoint, paths
from sonolume.utils.errors import UserError

REMEDY = "a folder or a hub id of a CLIP or a vision transformer, such as openai/clip-vit-large-patch14"
CLIP_TYPES = ("clip", "clip_vision_model")
CLIP_CLASSES = ("CLIPModel", "CLIPVisionModelWithProjection")
CLASSIFIER = "ForImageClassification"  # end of the names of classes whose head is ignored
# model type -> class; the vector of the first position stands for the picture, unless the model pools
TRANSFORMERS = {"vit": "ViTModel", "deit": "DeiTModel", "dinov2": "Dinov2Model", "beit": "BeitModel"}


class ImageEncoder:
    """A vision transformer with its image processor.

    A CLIP returns the projected vector, others the state of their first position, which needs a trained projector.

    Args:
        where: folder or hub id.
        has_text: there is a text encoder, too.
    """

    def __init__(self, model: Any, processor: Any, where: str = "", has_text: bool = False) -> None:
        self.model, self.processor, self.where, self.has_text = model, processor, where, has_text
        self.is_clip = model.config.model_type in CLIP_TYPES
        self.width: int = model.config.projection_dim if self.is_clip else model.config.hidden_size
        self._text: tuple[Any, Any] | None = None

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.model.to(device)

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Resize and normalise pictures -> (B, 3, H, W) float32."""
        return self.processor(images=list(pictures), return_tensors="pt").pixel_values

    def vectors(self, pixels: Tensor) -> Tensor:
        """Image vectors (B, V) float32, not normalised, of `pixels` (B, 3, H, W)."""
        output = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype))
        return (output.image_embeds if self.is_clip else output.last_hidden_state[:, 0]).float()

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Image vectors (B, V) of pictures, as `vectors`."""
        return self.vectors(self.pixels(pictures))

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors (B, J) of texts by the text encoder of the same CLIP, not normalised; long ones are cut.

        Raises:
            UserError: the image encoder is no CLIP with a text encoder.
        """
        return self.encode_tokens(self.tokenize(texts))

    def tokenize(self, texts: Sequence[str]) -> BatchEncoding:
        """Tokens of texts, padded to the longest; long ones are cut. Not safe in several threads at once."""
        model, tokenizer = self._load_text()
        size = model.config.max_position_embeddings
        return tokenizer(list(texts), padding=True, truncation=True, max_length=size, return_tensors="pt")

    @torch.no_grad()
    def encode_tokens(self, tokens: BatchEncoding) -> Tensor:
        """Vectors (B, J) of tokens, as of `encode_texts`; safe in several threads at once."""
        model, _ = self._load_text()
        found = model(tokens.input_ids.to(model.device), attention_mask=tokens.attention_mask.to(model.device))
        return found.text_embeds.float()

    def text_encoder(self) -> Any:
        """The text encoder of the same CLIP."""
        return self._load_text()[0]

    def _load_text(self) -> tuple[Any, Any]:
        """Load CLIP's text encoder and tokenizer at the first use."""
        if self._text is None:
            name = f"model.image_encoder.model {self.where}"
            if not self.has_text:
                raise UserError(f"{name}: has no text encoder: choose a CLIP, or model.loss.text_weight 0")
            model = pretrained.load_model(transformers.CLIPTextModelWithProjection, self.where, name)
            tokenizer = pretrained.load_processor(transformers.AutoTokenizer, self.where, name)
            self._text = model.to(self.model.device), tokenizer
        return self._text


def load_image_encoder(source: str, key: str, dtype: torch.dtype = torch.float32) -> ImageEncoder:
    """Load a frozen image encoder on the CPU.

    Args:
        source: folder or hub id; `key` is its flag or config key, for messages.

    Raises:
        UserError: missing, damaged, or no image encoder.
    """
    where, name = paths.locate(source, key, REMEDY), f"{key} {source}"
    kind = pretrained.model_settings(where, name, (*CLIP_TYPES, *TRANSFORMERS))["model_type"]
    model_class = "CLIPVisionModelWithProjection" if kind in CLIP_TYPES else TRANSFORMERS[kind]
    classes = CLIP_CLASSES if kind in CLIP_TYPES else (model_class, model_class.replace("Model", CLASSIFIER))
    if paths.is_local(where):
        checkpoint.check_folder(Path(where), *classes)
    model = pretrained.load_model(getattr(transformers, model_class), where, name, dtype=dtype)
    # the PIL backend, because torchvision is no dependency
    processor = pretrained.load_processor(transformers.AutoImageProcessor, where, name, backend="pil")
    return ImageEncoder(model, processor, where, has_text=kind == "clip")
