"""Im2Wav's folder of vqvae.tar, low.tar and up.tar -> a folder for run_inference.sh --checkpoint."""

from sonolume.bins.converters import ConverterOptions as Options


def run(options: Options) -> None:
    from sonolume.models.convert import im2wav  # slow: imports torch

    im2wav.convert({name: im2wav.find(options.source, name) for name in im2wav.PATTERNS}, options.folder)
