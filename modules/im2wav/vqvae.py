"""VQ-VAE of waveforms with separate levels, as in Jukebox (Dhariwal et al. 2020, arXiv 2005.00341).

Each level has its own encoder, codebook and decoder; level 0 is the finest. B clips, n samples, hop samples to a
token, T = n / hop tokens, C channels, D width of a code.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from sonolume.modules.im2wav.convolutions import ResidualBlock, dilations, downsample, upsample
from sonolume.modules.im2wav.quantizer import Codebook, DrawRows, Quantized, Reduce, identity

INPUT_GAIN = 10.0  # initial factor from a wave to the network's inner signals: waves have a deviation of about 0.1
RESIDUAL_GAIN = 0.1  # initial factor on the branch of each residual block


class Reconstruction(NamedTuple):
    wave: Tensor  # (B, n)
    quantized: Quantized


class Encoder(nn.Sequential):
    """(B, 1, n) -> (B, D, T); one stage for each entry of `downs`."""

    def __init__(self, downs: Sequence[int], stride: int, width: int, out: int, block_dilations: Sequence[int]) -> None:
        stages = []
        for stage, count in enumerate(downs):
            layers: list[nn.Module] = []
            for down in range(count):
                channels = width if down else out if stage else 1
                layers.append(downsample(channels, width, stride, block_dilations))
            stages.append(nn.Sequential(*layers, nn.Conv1d(width, out, 3, padding=1)))
        super().__init__(*stages)


class Decoder(nn.Module):
    """(B, D, T) -> (B, 1, n), the mirror image of the encoder.

    Stages are stored in the order of the encoder and run from last to first; dilations decrease within a stage.
    """

    def __init__(self, downs: Sequence[int], stride: int, width: int, out: int, block_dilations: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for count in downs:
            layers: list[nn.Module] = []
            for up in range(count):
                channels = width if up < count - 1 else out
                layers.append(upsample(width, channels, stride, block_dilations[::-1]))
            self.stages.append(nn.Sequential(nn.Conv1d(out, width, 3, padding=1), *layers))
        self.out = nn.Conv1d(out, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for stage in reversed(self.stages):
            x = stage(x)
        return self.out(x)


class VQVAE(ModelMixin, ConfigMixin):
    """Waveform <-> tokens at several rates; the defaults are the published sizes (hops of 8 and 32 samples).

    Args:
        downs: strided convolutions that each level adds; level l has a hop of stride^(downs[0] + ... + downs[l]).
        stride: stride of each of these convolutions.
        embedding_width: D.
        codes: size of each codebook.
        width: C of the residual blocks.
        depth: residual blocks for each strided convolution.
        dilation_growth: ratio of the dilations of successive blocks.
        decay: decay of the codebooks' moving averages.
        restart_threshold: running count below which a code is replaced.
        scales: fields of the `LossScales` of the training data, kept with the weights; the network does not use them.
    """

    @register_to_config
    def __init__(
        self,
        downs: Sequence[int] = (3, 2),
        stride: int = 2,
        embedding_width: int = 128,
        codes: int = 2048,
        width: int = 32,
        depth: int = 4,
        dilation_growth: int = 3,
        decay: float = 0.99,
        restart_threshold: float = 1.0,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.hops = [stride ** sum(downs[: level + 1]) for level in range(len(downs))]
        growing = dilations(depth, dilation_growth)
        sizes = [(downs[: level + 1], stride, width, embedding_width, growing) for level in range(len(downs))]
        self.encoders = nn.ModuleList(Encoder(*size) for size in sizes)
        self.decoders = nn.ModuleList(Decoder(*size) for size in sizes)
        self.codebooks = nn.ModuleList(Codebook(codes, embedding_width, decay, restart_threshold) for _ in downs)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Preserve the variance from layer to layer, without biases.

        The default biases of torch are larger than the signal of quiet waves: all rows of the first batch would be
        nearly the same, and so would be the codes that start from them.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                overlap = module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1
                nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0] / overlap) ** -0.5)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.conv1.weight.mul_(2**0.5)  # after a ReLU
                module.conv2.weight.mul_(RESIDUAL_GAIN)
        for encoder, decoder in zip(self.encoders, self.decoders, strict=True):
            encoder[0][0].conv.weight.mul_(INPUT_GAIN)  # type: ignore[index, union-attr, operator]
            decoder.out.weight.div_(INPUT_GAIN)  # type: ignore[union-attr, operator]

    def forward(
        self, wave: Tensor, draw_rows: DrawRows | None = None, reduce: Reduce = identity
    ) -> list[Reconstruction]:
        """(B, n) -> reconstruction of every level; `draw_rows` and `reduce` as in `Codebook.forward`."""
        levels = []
        for level in range(len(self.hops)):
            quantized = self.codebooks[level](self._encoded(wave, level), draw_rows, reduce)
            levels.append(Reconstruction(self.decoders[level](quantized.vectors)[:, 0], quantized))
        return levels

    @torch.no_grad()
    def encode(self, wave: Tensor, level: int) -> Tensor:
        """(B, n) -> tokens (B, n / hop).

        Raises:
            ValueError: n is not a multiple of the level's hop.
        """
        return self.codebooks[level].encode(self._encoded(wave, level))  # type: ignore[operator]

    def decode(self, tokens: Tensor, level: int) -> Tensor:
        """Tokens (B, T) of a level -> wave (B, T * hop), not clipped."""
        return self.decoders[level](self.codebooks[level].decode(tokens))[:, 0]  # type: ignore[operator]

    def _encoded(self, wave: Tensor, level: int) -> Tensor:
        if wave.shape[-1] % self.hops[level]:
            raise ValueError(f"{wave.shape[-1]} samples are not a multiple of hop {self.hops[level]} of level {level}")
        return self.encoders[level](wave[:, None])
