"""Amphion's text to audio: the whole system, or one of its networks."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.bins.converters import ConverterOptions
from sonolume.config.options import option
from sonolume.models.convert import layout


@dataclass(kw_only=True)
class PipelineOptions(ConverterOptions):
    source: Path = option(help="folder of the published runs", metavar="SOURCE", positional=True)
    latent: str | None = option(
        help="latent size to convert, if both published sizes are present", choices=layout.LATENTS
    )
    text_encoder: str = option("google-t5/t5-base", help="T5 encoder of the pipeline", metavar="FOLDER_OR_ID")


@dataclass(kw_only=True)
class NetworkOptions(ConverterOptions):
    source: Path = option(help="the file, the folder of its run, or ckpts/tta", metavar="SOURCE", positional=True)


@dataclass(kw_only=True)
class ConfiguredOptions(NetworkOptions):
    config: Path | None = option(help="settings of the network (default: the json next to the file)", metavar="FILE")


def amphion(options: PipelineOptions) -> None:
    """Amphion's published text-to-audio folders (ckpts/tta) -> one pipeline folder."""
    given = layout.published(options.source, options.latent) | {"text_encoder": options.text_encoder}
    from sonolume.models.convert import assemble  # slow: imports torch

    assemble.text_to_audio(options.folder, given)


def amphion_audioldm(options: ConfiguredOptions) -> None:
    """Amphion's text-to-audio U-Net -> diffusers UNet2DConditionModel."""
    _convert("audioldm", options, options.config)


def amphion_hifigan(options: ConfiguredOptions) -> None:
    """HiFi-GAN generator (g_*) of Amphion or the original code -> transformers SpeechT5HifiGan."""
    _convert("hifigan", options, options.config)


def amphion_vae(options: NetworkOptions) -> None:
    """Amphion's mel autoencoder -> diffusers AutoencoderKL."""
    _convert("vae", options)


def _convert(network: str, options: NetworkOptions, config: Path | None = None) -> None:
    path = layout.weights_file(options.source, network)
    from sonolume.models.convert import amphion  # slow: imports torch

    amphion.convert(network, path, options.folder, config)
