"""Arguments and conversion of a single network of Amphion's text-to-audio."""

from dataclasses import dataclass
from pathlib import Path

from sonolume.bins.converters import ConverterOptions
from sonolume.models.convert import layout
from sonolume.utils.options import option


@dataclass(kw_only=True)
class NetworkOptions(ConverterOptions):
    source: Path = option(
        help="the checkpoint file, the folder of its run, or ckpts/tta", metavar="SOURCE", positional=True
    )


@dataclass(kw_only=True)
class ConfiguredOptions(NetworkOptions):
    config: Path | None = option(help="settings of the network (default: the json next to the file)", metavar="FILE")


def convert(network: str, options: NetworkOptions, config: Path | None = None) -> None:
    path = layout.weights_file(options.source, network)
    from sonolume.models.convert import amphion  # slow: imports torch

    amphion.convert(network, path, options.folder, config)
