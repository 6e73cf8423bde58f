"""Amphion's text-to-audio U-Net -> diffusers UNet2DConditionModel."""

from sonolume.bins.converters.amphion import ConfiguredOptions as Options
from sonolume.bins.converters.amphion import convert_network


def run(options: Options) -> None:
    convert_network("audioldm", options, options.config)
