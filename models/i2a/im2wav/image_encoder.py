"""CLIP as the image encoder of Im2Wav: pictures, frames of a film and texts as unit vectors of one space.

N pictures or texts, F frames, V width of the space.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from sonolume.models import pretrained
from sonolume.utils import paths
from sonolume.utils.cache import content_hash
from sonolume.utils.image import to_rgb
from sonolume.utils.text import message
from sonolume.utils.video import stream_frames

KEY = "model.clip"  # config key of the source, for messages
BATCH_SIZE = 64  # pictures of one forward pass
MAX_RATIO = 8  # longer side by shorter; of a longer picture only the middle, which contains CLIP's crop, is scaled
PIXELS = ("do", "resample", "rescale", "size", "crop", "image")  # first words of the settings that change the pixels
TYPES = ("clip", "clip_vision_model")  # a whole CLIP, or its vision tower alone


class ImageEncoder:
    """A frozen CLIP in evaluation mode. Its text tower is loaded by the first call of `encode_texts`."""

    def __init__(self, vision: Any, processor: Any, where: str, name: str, revision: str | None = None) -> None:
        self.vision, self.processor = vision, processor
        self._where, self._name, self._revision = where, name, revision

    @classmethod
    def load(
        cls, source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, key: str = KEY
    ) -> Self:
        """Load any CLIP of transformers.

        Args:
            source: folder, relative to the repository, or hub id, also `ID@REVISION`.
            key: config key or flag of `source`, for messages.

        Raises:
            UserError: missing, damaged, not a CLIP, or without its image processor.
        """
        name, revision = f"{key} {source}", None
        if not paths.resolve(source).is_dir():  # the name of a folder may contain an @
            source, _, revision = source.partition("@")
        where, revision = paths.locate(source, key, "name a folder or a hub id of CLIP"), revision or None
        model = transformers.CLIPVisionModelWithProjection
        config = _tower_config(where, name, revision, "vision")
        vision = pretrained.load_model(model, where, name, revision, dtype, config=config)
        # the PIL backend, because torchvision is no dependency; it equals OpenAI's preprocessing
        processor = pretrained.load_processor(transformers.AutoImageProcessor, where, name, revision, backend="pil")
        return cls(vision.to(device), processor, where, name, revision)

    @property
    def width(self) -> int:
        """V."""
        return self.vision.config.projection_dim

    @property
    def device(self) -> torch.device:
        return self.vision.device

    @cached_property
    def content_hash(self) -> str:
        """Hash of the weights of the vision tower and of the image processor, wherever they were loaded from."""
        settings = {name: value for name, value in self.processor.to_dict().items() if name.partition("_")[0] in PIXELS}
        return content_hash(settings, self.vision.state_dict().values())

    @torch.no_grad()
    def encode_pictures(self, pictures: Iterable[Image]) -> Tensor:
        """Encode N pictures of any size and mode, `BATCH_SIZE` at a time: (N, V) float32 on the CPU, of length 1.

        A generator of pictures is read as it is encoded.
        """
        rows, pixels = [torch.zeros(0, self.width)], list[Tensor]()
        for picture in pictures:
            pixels.append(self._pixels(picture))
            if len(pixels) == BATCH_SIZE:
                rows.append(self._encode(pixels))
        return torch.cat([*rows, self._encode(pixels)] if pixels else rows)

    def encode_video(self, path: Path, fps: float = 30.0, start: float = 0.0, seconds: float | None = None) -> Tensor:
        """Encode the frames that `stream_frames` finds in a film: (F, V) float32 on the CPU, of length 1.

        A frame that is shown at several times is encoded once. The memory does not grow with the length of the film.

        Raises:
            VideoError: a missing, cut or damaged file, or no video track.
        """
        shown = list[int]()  # for how many times each distinct frame is shown

        def distinct() -> Iterator[Image]:
            last = None
            for frame in stream_frames(path, fps, start, seconds):
                if frame is not last:
                    shown.append(0)
                    yield frame.picture
                shown[-1] += 1
                last = frame

        features = self.encode_pictures(distinct())
        return features.repeat_interleave(torch.tensor(shown), dim=0)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Encode N texts: (N, V) float32 on the CPU, of length 1. Longer ones are cut, with a message on stderr.

        Raises:
            UserError: the folder holds no text tower, or no tokenizer.
        """
        model, tokenizer = self._text_tower
        limit, rows = model.config.max_position_embeddings, [torch.zeros(0, self.width)]
        for text in texts:
            if (count := len(tokenizer(text, verbose=False).input_ids)) > limit:
                message(f"{text:.40}...: {count} tokens, of which CLIP reads the first {limit}")
        for first in range(0, len(texts), BATCH_SIZE):
            batch = list(texts[first : first + BATCH_SIZE])
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            embeds = model(**{name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")})
            rows.append(F.normalize(embeds.text_embeds.float(), dim=-1).cpu())
        return torch.cat(rows)

    @cached_property
    def _text_tower(self) -> tuple[Any, Any]:
        """The text model with its projection, and its tokenizer."""
        where, name, revision = self._where, self._name, self._revision
        config, model = _tower_config(where, name, revision, "text"), transformers.CLIPTextModelWithProjection
        text = pretrained.load_model(model, where, name, revision, self.vision.dtype, config=config)
        return text.to(self.device), pretrained.load_processor(transformers.AutoTokenizer, where, name, revision)

    def _encode(self, pixels: list[Tensor]) -> Tensor:
        """Encode one batch of (3, H, W), and empty the list: (B, V)."""
        batch = torch.stack(pixels).to(self.device, self.vision.dtype)  # (B, 3, H, W)
        pixels.clear()
        embeds = self.vision(pixel_values=batch).image_embeds           # (B, V)
        return F.normalize(embeds.float(), dim=-1).cpu()

    def _pixels(self, picture: Image) -> Tensor:
        """Scale, crop and normalise a picture: (3, H, W)."""
        picture, side = _middle(to_rgb(picture)), self.processor.size.get("shortest_edge")
        if side and self.processor.do_resize:  # as the processor would, but without two conversions of all pixels
            shorter = min(picture.size)
            size = [side * length // shorter for length in picture.size]
            picture = picture.resize((size[0], size[1]), self.processor.resample)
        return self.processor(images=picture, return_tensors="pt", input_data_format="channels_last").pixel_values[0]


def _tower_config(where: str, name: str, revision: str | None, tower: str) -> Any:
    """Return the config of one tower. In the config of a whole CLIP, the width of the space stands outside of it."""
    types = TYPES if tower == "vision" else TYPES[:1]
    settings = pretrained.model_settings(where, name, types, revision)
    if settings["model_type"] != TYPES[0]:
        return transformers.CLIPVisionConfig.from_dict(settings)
    whole = transformers.CLIPConfig.from_dict(settings)
    config = getattr(whole, f"{tower}_config")
    config.projection_dim = whole.projection_dim
    config.world = getattr(whole, "world", None)  # of the miniature
    return config


def _middle(picture: Image) -> Image:
    """Crop a very long picture to its middle, which is all that the processor keeps after scaling it."""
    longest = MAX_RATIO * min(picture.size)
    if max(picture.size) <= longest:
        return picture
    width, height = (min(side, longest) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
