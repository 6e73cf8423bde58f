"""Im2Wav's Low prior (low.tar) -> a folder with this network alone."""

from sonolume.bins.converters import ConverterOptions as Options


def run(options: Options) -> None:
    from sonolume.models.convert import im2wav  # slow: imports torch

    im2wav.convert({"low": im2wav.find(options.source, "low")}, options.folder)
