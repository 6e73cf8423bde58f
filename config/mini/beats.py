"""mini/beats: a small BEATs that learns which kinds of sound are heard."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, MiniworldConfig, RunConfig, Strict, TrainConfig

INFERENCE_FLAGS: tuple[str, ...] = ()
EVALUATION_FLAGS: tuple[str, ...] = ()
BANDS = 128  # of the front end
FEWEST_LAYERS = 3  # AudioToken reads three of them


@dataclass
class BEATsConfig(Strict):
    """Settings of the network by their official names."""

    input_patch_size: int = 16  # frames of 10 ms, and mel bands, of a token
    embed_dim: int = 64  # width of a patch
    encoder_layers: int = 6
    encoder_embed_dim: int = 96  # width of a token
    encoder_ffn_embed_dim: int = 256  # width of the feed-forward layers
    encoder_attention_heads: int = 4
    conv_pos: int = 32  # tokens of the convolution that tells places
    conv_pos_groups: int = 8
    num_buckets: int = 128  # relative places that are told apart
    max_distance: int = 160  # tokens; all beyond are one place

    def __post_init__(self) -> None:
        key, names = "model.beats", ("embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "conv_pos_groups")
        self.at_least(key, 1, *names, "encoder_embed_dim", "input_patch_size", "conv_pos")
        self.at_least(key, FEWEST_LAYERS, "encoder_layers")
        self.at_least(key, 4, "num_buckets")
        self.require(
            BANDS % self.input_patch_size == 0, f"{key}.input_patch_size {self.input_patch_size} must divide {BANDS}"
        )
        self.require(
            self.max_distance > self.num_buckets // 4,
            f"{key}.max_distance {self.max_distance} must be above a quarter of num_buckets {self.num_buckets}",
        )
        for name in ("encoder_attention_heads", "conv_pos_groups"):
            self.require(
                self.encoder_embed_dim % getattr(self, name) == 0,
                f"{key}: encoder_embed_dim {self.encoder_embed_dim} is not divisible by {name} {getattr(self, name)}",
            )


@dataclass
class ModelConfig(Strict):
    beats: BEATsConfig = field(default_factory=BEATsConfig)


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # sounds are made as training goes
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=1e-3)))
