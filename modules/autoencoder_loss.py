"""Losses of the mel autoencoder: L1 with a scalar log-variance, KL, hinge GAN with an adaptive weight.

x, recon: (B, 1, bands, frames). Source: Esser et al. 2021 (VQGAN) eq. 7, as in Amphion's
`AutoencoderLossWithDiscriminator`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def nll_loss(x: Tensor, recon: Tensor, logvar: Tensor) -> Tensor:
    """mean(|x - recon| / exp(logvar) + logvar)."""
    return ((x - recon).abs() / logvar.exp() + logvar).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-mean D(recon)."""
    return -fake_logits.mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge: the mean of relu(1 - D(x)) and relu(1 + D(recon))."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def adaptive_weight(nll: Tensor, gan: Tensor, last_layer: Tensor, weight: float, low: float, high: float) -> Tensor:
    """Weight of the GAN loss, weight * clamp(|grad nll| / (|grad gan| + 1e-4), low, high), at the last layer."""
    (nll_grad,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (gan_grad,) = torch.autograd.grad(gan, last_layer, retain_graph=True)
    ratio = nll_grad.norm() / (gan_grad.norm() + 1e-4)
    return weight * ratio.clamp(low, high).detach()
