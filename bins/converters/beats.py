"""BEATs."""

from sonolume.bins.converters import ConverterOptions


def beats(options: ConverterOptions) -> None:
    """BEATs sound encoder (BEATs*.pt), fine-tuned or not -> a folder for BEATs.from_pretrained."""
    from sonolume.models.convert import beats  # slow: imports torch

    beats.convert(options.source, options.folder)
