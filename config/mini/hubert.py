"""mini/hubert: a small HuBERT that spells the speech of the miniature world."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, AdamConfig, RunConfig, Strict, TrainConfig
from sonolume.config.options import ReportOptions
from sonolume.config.speech_pictures import SpeechPicturesConfig

EvaluationOptions = ReportOptions


@dataclass
class ModelConfig(Strict):
    """transformers' HubertForCTC, with the seven convolutions and the layer norms of the large model."""

    conv_dim: list[int] = field(default_factory=lambda: [16, 24, 32, 48, 64, 96, 96])  # channels of each convolution
    hidden_size: int = 96
    intermediate_size: int = 256  # of the feed-forward layers
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_conv_pos_embeddings: int = 32  # frames of 20 ms of the positional convolution
    num_conv_pos_embedding_groups: int = 8

    def __post_init__(self) -> None:
        key = "model"
        self.check_range(key, 1, "conv_dim", "hidden_size", "intermediate_size", "num_attention_heads")
        self.check_range(key, 1, "num_conv_pos_embeddings", "num_conv_pos_embedding_groups", maximum=1024)
        self.check_range(key, 1, "num_hidden_layers", maximum=MOST_LAYERS)
        self.divisible(key, "hidden_size", "num_attention_heads", "num_conv_pos_embedding_groups")
        self.require(len(self.conv_dim) == 7, f"model.conv_dim must have 7 numbers, got {len(self.conv_dim)}")


@dataclass
class AugmentationConfig(Strict):
    """Changes of the recordings in training, drawn anew in every epoch."""

    speed: float = 0.1  # largest change of speed, which also changes the pitch: 0.1 is 0.9 to 1.1
    noise: float = 0.02  # largest standard deviation of white noise

    def __post_init__(self) -> None:
        self.fraction("augmentation", "speed", "noise")


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld_speech"])  # prepared by s2i/wavy
    preprocess: SpeechPicturesConfig = field(default_factory=SpeechPicturesConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))
