"""mini/beats: a small BEATs classifier of the miniature world's kinds of sound."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, AdamConfig, Strict, TrainConfig
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions

NUM_MEL_BINS = 128  # of the BEATs front end
MIN_LAYERS = 3  # AudioToken uses the features of three layers


@dataclass
class BEATsConfig(Strict):
    """Hyperparameters under their official names."""

    input_patch_size: int = 16  # frames of 10 ms, and mel bins, of a patch
    embed_dim: int = 64  # width of a patch
    encoder_layers: int = 6
    encoder_embed_dim: int = 96  # width of a token
    encoder_ffn_embed_dim: int = 256  # width of the feed-forward layers
    encoder_attention_heads: int = 4
    conv_pos: int = 32  # kernel size of the positional convolution, in tokens
    conv_pos_groups: int = 8
    num_buckets: int = 128  # buckets of the relative position bias
    max_distance: int = 160  # tokens; larger distances share one bucket

    def __post_init__(self) -> None:
        key, names = "model.beats", ("embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "conv_pos_groups")
        self.check_range(key, 1, *names, "encoder_embed_dim", "input_patch_size", "conv_pos")
        self.check_range(key, MIN_LAYERS, "encoder_layers", maximum=MOST_LAYERS)
        self.check_range(key, 4, "num_buckets")
        self.divisible(key, "encoder_embed_dim", "encoder_attention_heads", "conv_pos_groups")
        size, distance, buckets = self.input_patch_size, self.max_distance, self.num_buckets
        self.require(NUM_MEL_BINS % size == 0, f"{key}.input_patch_size {size} must divide {NUM_MEL_BINS}")
        message = f"{key}.max_distance {distance} must be above a quarter of num_buckets {buckets}"
        self.require(distance > buckets // 4, message)


@dataclass
class ModelConfig(Strict):
    beats: BEATsConfig = field(default_factory=BEATsConfig)


@dataclass
class Config(GeneratedDataConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=1e-3)))
