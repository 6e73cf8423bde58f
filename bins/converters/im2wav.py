"""Im2Wav: the whole system, or one of its networks."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.bins.converters import ConverterOptions
from sonolume.config.options import option


@dataclass(kw_only=True)
class SystemOptions(ConverterOptions):
    source: Path = option(help="the folder that contains the three files", metavar="SOURCE", positional=True)


def im2wav(options: SystemOptions) -> None:
    """Im2Wav's folder of vqvae.tar, low.tar and up.tar -> a folder for run_inference.sh --checkpoint."""
    _convert(options, "vqvae", "low", "up")


def im2wav_low(options: ConverterOptions) -> None:
    """Im2Wav's Low prior (low.tar) -> a folder with this network alone."""
    _convert(options, "low")


def im2wav_up(options: ConverterOptions) -> None:
    """Im2Wav's Up prior (up.tar) -> a folder with this network alone."""
    _convert(options, "up")


def im2wav_vqvae(options: ConverterOptions) -> None:
    """Im2Wav's VQ-VAE (vqvae.tar) -> a folder with this network alone."""
    _convert(options, "vqvae")


def _convert(options: ConverterOptions, *networks: str) -> None:
    from sonolume.models.convert import im2wav  # slow: imports torch

    im2wav.convert({name: im2wav.find(options.source, name) for name in networks}, options.folder)
