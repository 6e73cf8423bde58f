"""PatchGAN discriminator of mel-spectrograms (Isola et al. 2017), as in Amphion's VAE training."""

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Logits for overlapping patches: (B, 1, bands, frames) -> (B, 1, about bands / 8, about frames / 8).

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
