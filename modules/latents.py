"""Normalisation of the autoencoder's latents to about zero mean and unit deviation, as the U-Net takes them."""

from diffusers import AutoencoderKL
from torch import Tensor


def normalise(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """(B, z, h, w) of the VAE -> normalised latents."""
    mean, std = _statistics(latents, vae)
    return (latents - mean) / std


def denormalise(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = _statistics(latents, vae)
    return latents * std + mean


def _statistics(latents: Tensor, vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's latents, (1, z, 1, 1) each; from `scaling_factor` if not per channel."""
    mean, std = vae.config.latents_mean, vae.config.latents_std
    if mean is None or std is None:
        return latents.new_zeros(1, 1, 1, 1), latents.new_full((1, 1, 1, 1), 1 / vae.config.scaling_factor)
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
