"""The latent diffusion U-Net: diffusers' network with the official upsampling at odd sizes, and its inputs."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

CARD = """\
# U-Net of a text-to-audio model

`UNet2DConditionModel` of diffusers loads these weights, but its results are wrong, without a message, for latents with
an odd side at any level (5 x 39, 10 x 78): it resizes before the convolution of each upsampling, while this network was
trained to upsample, convolve and crop. Load the whole pipeline with its own code instead:

```python
from diffusers import DiffusionPipeline

unet = DiffusionPipeline.from_pretrained(pipeline_folder, trust_remote_code=True).unet
```

With sonolume installed, this folder alone is enough:

```python
from diffusers import UNet2DConditionModel
from sonolume.modules.unet import use_crop_upsampling

unet = use_crop_upsampling(UNet2DConditionModel.from_pretrained(unet_folder))
```
"""


class CropUpsample2D(nn.Module):
    """Nearest x2, 3x3 convolution, then crop to the skip connection's size, as Amphion's U-Net does.

    diffusers resizes to the skip's size first, so at odd sizes the convolution reads zero padding where the official
    network reads a neighbour (up to 0.5 apart at 5x39). Same parameters: a child called `conv`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, hidden_states: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        x = F.interpolate(hidden_states, scale_factor=2.0, mode="nearest")  # (B, C, 2H, 2W)
        x = self.conv(x)                                                    # (B, C, 2H, 2W)
        return x if output_size is None else x[..., : output_size[0], : output_size[1]]


def use_crop_upsampling(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Swap every upsampler of `unet` for `CropUpsample2D`, in place. Weights and their names stay as they are."""
    for block in unet.up_blocks:
        upsamplers: Any = block.upsamplers or []
        for index, upsampler in enumerate(upsamplers):
            if not isinstance(upsampler, CropUpsample2D):
                upsamplers[index] = CropUpsample2D(upsampler.conv)
    return unet


def write_card(folder: Path) -> None:
    """Write the README.md of a saved U-Net, which says that diffusers' class alone gives other results."""
    (folder / "README.md").write_text(CARD, encoding="utf-8")


def zero_init(unet: UNet2DConditionModel) -> None:
    """Zero the last layer of every residual branch and of the network (the official initialisation)."""
    last = {"ResnetBlock2D": "conv2", "Transformer2DModel": "proj_out", type(unet).__name__: "conv_out"}
    for module in [module for module in unet.modules() if type(module).__name__ in last]:
        layer: Any = getattr(module, last[type(module).__name__])
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def with_positions(latents: Tensor, in_channels: int) -> Tensor:
    """Append coordinate channels until there are `in_channels`: time, then frequency, each from -1 to 1.

    (B, C, H, W) -> (B, in_channels, H, W). A convolution alone cannot distinguish the first half of a clip from the
    second, which "X, then Y" needs (CoordConv, Liu et al. 2018). Official weights have no such channels.
    """
    batch, channels, height, width = latents.shape
    missing = in_channels - channels
    if not missing:
        return latents
    time, frequency = (
        torch.linspace(-1, 1, size, device=latents.device, dtype=latents.dtype) for size in (width, height)
    )
    positions = torch.stack(torch.meshgrid(time, frequency, indexing="xy"))[:missing]  # (missing, H, W)
    return torch.cat([latents, positions.expand(batch, -1, -1, -1)], dim=1)


def normalise(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """(B, z, h, w) of the VAE -> latents of about zero mean and unit deviation, as the U-Net takes them."""
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
        mean, std = [0.0], [1 / vae.config.scaling_factor]
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)
