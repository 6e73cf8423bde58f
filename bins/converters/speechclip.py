"""SpeechCLIP."""

from dataclasses import dataclass

from sonolume.bins.converters import ConverterOptions
from sonolume.config.options import option


@dataclass(kw_only=True)
class SpeechClipOptions(ConverterOptions):
    hubert: str | None = option(
        help="HuBERT that it was trained on (default: facebook/hubert-large-ll60k or hubert-base-ls960, by its width)",
        metavar="FOLDER_OR_ID",
    )
    image_encoder: str | None = option(
        help="CLIP that it was trained on (default: openai/clip-vit-large-patch14 or clip-vit-base-patch32, by the "
        "width of its vectors)", metavar="FOLDER_OR_ID",
    )  # fmt: skip


def speechclip(options: SpeechClipOptions) -> None:
    """SpeechCLIP's parallel branch (.ckpt, large or base) -> a trained encoder for s2i/wavy."""
    from sonolume.models.convert import speechclip  # slow: imports torch

    speechclip.convert(options.source, options.folder, options.hubert, options.image_encoder)
