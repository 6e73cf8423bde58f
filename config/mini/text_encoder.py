"""mini/text_encoder: a byte-level T5 encoder trained on captions of the miniature world."""

from dataclasses import dataclass, field

from sonolume.config.base import MOST_LAYERS, Strict
from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions


@dataclass
class TextEncoderConfig(Strict):
    """transformers' T5 encoder with ByT5's byte tokenizer (no vocabulary file)."""

    d_model: int = 128  # width of the text states
    d_ff: int = 256  # width of the feed-forward layers
    num_layers: int = 4
    num_heads: int = 4

    def __post_init__(self) -> None:
        self.check_range("model.text_encoder", 1, "d_model", "d_ff", "num_heads")
        self.check_range("model.text_encoder", 1, "num_layers", maximum=MOST_LAYERS)
        self.divisible("model.text_encoder", "d_model", "num_heads")


@dataclass
class ModelConfig(Strict):
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)


@dataclass
class Config(GeneratedDataConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
