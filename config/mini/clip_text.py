"""mini/clip_text: a CLIP text encoder that learns what captions of the miniature world say."""

from dataclasses import dataclass, field

from sonolume.config.base import AdamConfig, MiniworldConfig, RunConfig, Strict, TrainConfig

INFERENCE_FLAGS: tuple[str, ...] = ()
EVALUATION_FLAGS: tuple[str, ...] = ()


@dataclass
class ModelConfig(Strict):
    """transformers' CLIPTextModel: causal attention, learned positions."""

    hidden_size: int = 128  # width of the text states, and of the tokens
    intermediate_size: int = 256  # width of the feed-forward layers
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    max_tokens: int = 48  # of one text, with its start and end; shorter ones are padded to it

    def __post_init__(self) -> None:
        self.at_least("model", 1, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        self.at_least("model", 8, "max_tokens")
        self.require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model: hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}",
        )


@dataclass
class Config(RunConfig):
    log_dir: str = "ckpts/mini"
    dataset: list[str] = field(default_factory=lambda: ["miniworld"])  # captions are made as training goes
    miniworld: MiniworldConfig = field(default_factory=MiniworldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(adam=AdamConfig(lr=2e-3)))
