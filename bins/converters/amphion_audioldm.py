"""Amphion's text-to-audio U-Net -> diffusers UNet2DConditionModel."""

from sonolume.bins.converters._amphion import ConfiguredOptions, convert

Options = ConfiguredOptions


def run(options: ConfiguredOptions) -> None:
    convert("audioldm", options, options.config)
