"""AudioToken."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.bins.converters import ConverterOptions
from sonolume.config.options import option


@dataclass(kw_only=True)
class EmbedderOptions(ConverterOptions):
    lora: Path | None = option(help="lora_layers_learned_embeds.bin that was trained with it", metavar="FILE")
    beats: str = option("pretrained/beats", help="BEATs model of the pipeline", metavar="FOLDER_OR_ID")
    stable_diffusion: str | None = option(
        help="Stable Diffusion of the pipeline (default: 1.4 or 2.1, by the embedder's width)", metavar="FOLDER_OR_ID"
    )


def audiotoken(options: EmbedderOptions) -> None:
    """AudioToken's embedder (embedder_learned_embeds.bin) -> a folder for run_inference.sh --checkpoint."""
    from sonolume.models.convert import audiotoken  # slow: imports torch

    audiotoken.convert(options.source, options.folder, options.beats, options.stable_diffusion, options.lora)
