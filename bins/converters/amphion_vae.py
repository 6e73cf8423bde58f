"""Amphion's mel autoencoder -> diffusers AutoencoderKL."""

from sonolume.bins.converters.amphion import NetworkOptions as Options
from sonolume.bins.converters.amphion import convert_network


def run(options: Options) -> None:
    convert_network("vae", options)
