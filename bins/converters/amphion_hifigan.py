"""HiFi-GAN generator (g_*) of Amphion or the original code -> transformers SpeechT5HifiGan."""

from sonolume.bins.converters._amphion import ConfiguredOptions, convert

Options = ConfiguredOptions


def run(options: ConfiguredOptions) -> None:
    convert("hifigan", options, options.config)
