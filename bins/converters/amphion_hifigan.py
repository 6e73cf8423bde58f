"""HiFi-GAN generator (g_*) of Amphion or the original code -> transformers SpeechT5HifiGan."""

from sonolume.bins.converters.amphion import ConfiguredOptions as Options
from sonolume.bins.converters.amphion import convert_network


def run(options: Options) -> None:
    convert_network("hifigan", options, options.config)
