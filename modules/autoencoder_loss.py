"""Losses of the mel autoencoder: L1 with a scalar log-variance, and a hinge GAN of patches with an adaptive weight.

x, recon: (B, 1, bands, frames). Source: Esser et al. 2021 (VQGAN) eq. 7, as in Amphion's
`AutoencoderLossWithDiscriminator`.
"""

import torch
from torch import Tensor, nn
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


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017): (B, 1, bands, frames) -> logits (B, 1, about bands / 8, about frames / 8).

    Names and layout are the official ones (`main.{0,2,3,5,...}`).
    """

    def __init__(self, in_channels: int = 1, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels
        for level in range(1, layers + 1):
            wider = channels * min(2**level, 8)
            stride = 2 if level < layers else 1
            stack += [nn.Conv2d(width, wider, 4, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
            width = wider
        stack.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*stack)
        self.apply(_initialise)

    def forward(self, mel: Tensor) -> Tensor:
        return self.main(mel)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
