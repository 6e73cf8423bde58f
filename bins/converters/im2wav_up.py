"""Im2Wav's Up prior (up.tar) -> a folder with this network alone."""

from sonolume.bins.converters import ConverterOptions as Options


def run(options: Options) -> None:
    from sonolume.models.convert import im2wav  # slow: imports torch

    im2wav.convert({"up": im2wav.find(options.source, "up")}, options.folder)
