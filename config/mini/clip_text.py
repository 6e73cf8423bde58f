"""mini/clip_text: a CLIP text encoder trained on captions of the miniature world."""

from dataclasses import dataclass, field

from sonolume.config.mini import GeneratedDataConfig
from sonolume.config.mini import PreprocessOptions as PreprocessOptions
from sonolume.config.mini.clip import TowerConfig


@dataclass
class ModelConfig(TowerConfig):
    """transformers' CLIPTextModel: causal attention, learned positions."""

    hidden_size: int = 128  # width of the text states, and of the tokens
    intermediate_size: int = 256  # width of the feed-forward layers
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_tokens: int = 48  # text length with start and end tokens; shorter texts are padded

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("model", 8, "max_tokens")


@dataclass
class Config(GeneratedDataConfig):
    model: ModelConfig = field(default_factory=ModelConfig)
