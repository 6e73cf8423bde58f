"""mini/picture_vae: the autoencoder of the miniature world's 64 x 64 pictures, for mini/stable_diffusion."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, MiniworldConfig, RunConfig, Strict, TrainConfig

INFERENCE_FLAGS: tuple[str, ...] = ()
EVALUATION_FLAGS: tuple[str, ...] = ()


@dataclass
class ModelConfig(Strict):
    """diffusers' AutoencoderKL without attention."""

    block_out_channels: list[int] = field(default_factory=lambda: [24, 48, 64])  # each level but the last halves
    layers_per_block: int = 1  # of the encoder; the decoder has one more
    latent_channels: int = 4
    norm_num_groups: int = 8  # groups of every GroupNorm
    kl_weight: float = 1e-6  # of the KL divergence beside the absolute error

    def __post_init__(self) -> None:
        self.at_least("model", 1, "layers_per_block", "latent_channels", "norm_num_groups")
        self.at_least("model", 0, "kl_weight")
        self.require(len(self.block_out_channels) > 0, "model.block_out_channels must not be empty")
        for channels in self.block_out_channels:
            self.require(
                channels > 0 and channels % self.norm_num_groups == 0,
                f"model.block_out_channels: {channels} is not divisible by norm_num_groups {self.norm_num_groups}",
            )


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # pictures are drawn as training goes
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))
