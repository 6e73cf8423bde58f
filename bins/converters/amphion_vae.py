"""Amphion's mel autoencoder -> diffusers AutoencoderKL."""

from sonolume.bins.converters._amphion import NetworkOptions, convert

Options = NetworkOptions


def run(options: NetworkOptions) -> None:
    convert("vae", options)
