"""mini/picture_vae: the autoencoder of 64 x 64 pictures that mini/stable_diffusion uses."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, Strict
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions


@dataclass
class ModelConfig(Strict):
    """diffusers' AutoencoderKL without attention."""

    block_out_channels: list[int] = field(default_factory=lambda: [24, 48, 64])  # every level but the last halves
    layers_per_block: int = 1  # of the encoder; the decoder has one more
    latent_channels: int = 4
    norm_num_groups: int = 8  # groups of every GroupNorm
    kl_weight: float = 1e-6  # weight of the KL divergence

    def __post_init__(self) -> None:
        self.check_range("model", 1, "latent_channels", "norm_num_groups", "block_out_channels")
        self.check_range("model", 1, "layers_per_block", maximum=MOST_LAYERS)
        self.check_range("model", 0, "kl_weight")
        self.require(len(self.block_out_channels) > 0, "model.block_out_channels must not be empty")
        self.divisible("model", "block_out_channels", "norm_num_groups")


@dataclass
class Config(GeneratedDataConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
