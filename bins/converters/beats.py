"""BEATs sound encoder (BEATs*.pt), fine-tuned or not -> a folder for BEATs.from_pretrained."""

from sonolume.bins.converters import ConverterOptions as Options


def run(options: Options) -> None:
    from sonolume.models.convert import beats  # slow: imports torch

    beats.convert(options.source, options.folder)
