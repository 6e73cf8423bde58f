"""Dilated residual convolutions over time, the building blocks of the VQ-VAE and of the token upsampler.

B clips, C channels, T positions.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + (ReLU, dilated convolution of 3, ReLU, convolution of 1)(x), without normalisation."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def dilations(depth: int, growth: int, cycle: int | None = None) -> list[int]:
    """Dilations growth^0, growth^1 ... of `depth` blocks; the exponent restarts at 0 every `cycle` blocks."""
    return [growth ** (block % (cycle or depth)) for block in range(depth)]


def _residual_blocks(width: int, block_dilations: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width, dilation) for dilation in block_dilations))


def downsample(channels: int, width: int, stride: int, block_dilations: Sequence[int]) -> nn.Sequential:
    """(B, channels, T) -> (B, width, T / stride), convolution first, then residual blocks."""
    conv = nn.Conv1d(channels, width, 2 * stride, stride, stride // 2)
    return nn.Sequential(OrderedDict(conv=conv, blocks=_residual_blocks(width, block_dilations)))


def upsample(width: int, channels: int, stride: int, block_dilations: Sequence[int]) -> nn.Sequential:
    """(B, width, T) -> (B, channels, T * stride), residual blocks first, then the convolution."""
    conv = nn.ConvTranspose1d(width, channels, 2 * stride, stride, stride // 2)
    return nn.Sequential(OrderedDict(blocks=_residual_blocks(width, block_dilations), conv=conv))
